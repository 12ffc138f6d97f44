//! `netpath doctor`: what this kernel and host have and lack, and what to do.

use std::process::ExitCode;

use anyhow::Result;

use super::format::{or_dash, table};
use crate::doctor::{Check, Interface, Report, examine};

pub(super) async fn run(json: bool) -> Result<ExitCode> {
    let report = examine().await?;
    if json {
        super::print_json(&report)?;
    } else {
        super::print(&render(&report))?;
    }
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::from(super::PROBLEM) })
}

fn render(report: &Report) -> String {
    let check = |check: &Check| {
        [check.status.shown().to_owned(), check.name.clone(), check.found.clone(), or_dash(&check.advice)]
    };
    let interface = |interface: &Interface| {
        [
            interface.ifname.clone(),
            or_dash(interface.driver.as_deref().unwrap_or_default()),
            if interface.external { "yes" } else { "no" }.to_owned(),
            interface.mtu.to_string(),
            interface.native_xdp.as_ref().map_or_else(|| "not known".to_owned(), |names| or_dash(&names.join(","))),
            or_dash(&interface.turned_off_by_xdp.join(",")),
            interface.xdp_auto.clone(),
            interface.reason.clone(),
        ]
    };
    [
        table(["STATUS", "CHECK", "FOUND", "ADVICE"], report.checks.iter().map(check)),
        table(
            ["INTERFACE", "DRIVER", "EXTERNAL", "MTU", "NATIVE XDP", "IT TURNS OFF", "XDP AUTO", "WHY"],
            report.interfaces.iter().map(interface),
        ),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_report_is_two_tables() {
        let check = |name: &str, status, found: &str, advice: &str| Check {
            name: name.to_owned(),
            status,
            found: found.to_owned(),
            advice: advice.to_owned(),
        };
        let mut report = Report {
            checks: vec![
                check("kernel", Status::Ok, "Linux 6.18", ""),
                check("ipv6", Status::Warn, "off", "networks have IPv4 only"),
            ],
            interfaces: vec![Interface {
                ifname: "eth0".to_owned(),
                driver: Some("ice".to_owned()),
                external: true,
                mtu: 1500,
                native_xdp: Some(vec!["basic".to_owned(), "redirect".to_owned()]),
                turned_off_by_xdp: vec!["rx-lro".to_owned()],
                xdp_auto: "off".to_owned(),
                reason: "it would turn off rx-lro".to_owned(),
            }],
        };
        assert_eq!(
            render(&report),
            "\
STATUS  CHECK   FOUND       ADVICE
ok      kernel  Linux 6.18  -
warn    ipv6    off         networks have IPv4 only

INTERFACE  DRIVER  EXTERNAL  MTU   NATIVE XDP      IT TURNS OFF  XDP AUTO  WHY
eth0       ice     yes       1500  basic,redirect  rx-lro        off       it would turn off rx-lro
"
        );
        assert!(report.is_well());
        report.checks.push(check("btf", Status::Fail, "none", "build another kernel"));
        assert!(!report.is_well());
    }
}
