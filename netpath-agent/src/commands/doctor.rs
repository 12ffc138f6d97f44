//! `netpath doctor`: what this kernel and host have and lack, and what to do.

use std::process::ExitCode;

use anyhow::Result;

use super::format::{or_dash, table};
use crate::cli::DoctorArgs;
use crate::datapath::trial::Trial;
use crate::doctor::{Check, Interface, Report, examine};

pub(super) async fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let report = examine(args.programs).await?;
    if args.table.json {
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
    let mut parts = vec![
        table(["STATUS", "CHECK", "FOUND", "ADVICE"], report.checks.iter().map(check)),
        table(
            ["INTERFACE", "DRIVER", "EXTERNAL", "MTU", "NATIVE XDP", "IT TURNS OFF", "XDP AUTO", "WHY"],
            report.interfaces.iter().map(interface),
        ),
    ];
    if !report.programs.is_empty() {
        parts.push(table(["PROGRAM", "INSTRUCTIONS", "REFUSED WITH"], report.programs.iter().map(program)));
        parts.extend(report.programs.iter().filter(|trial| trial.refusal.len() > 1).map(refusal));
    }
    parts.join("\n")
}

fn program(trial: &Trial) -> [String; 3] {
    let why = trial.refusal.last().map(String::as_str).unwrap_or_default();
    [trial.name.clone(), trial.instructions.to_string(), or_dash(why)]
}

/// The verifier's last words.
fn refusal(trial: &Trial) -> String {
    let lines = trial.refusal.iter().map(|line| format!("    {line}\n"));
    format!("{}:\n{}", trial.name, lines.collect::<String>())
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
            programs: Vec::new(),
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
        let lines = ["R1 invalid mem access", "Permission denied"].map(str::to_owned).to_vec();
        report.programs = vec![
            Trial { name: "to_bridge".to_owned(), instructions: 120, refusal: Vec::new() },
            Trial { name: "from_external".to_owned(), instructions: 0, refusal: lines },
        ];
        let programs = "\
PROGRAM        INSTRUCTIONS  REFUSED WITH
to_bridge      120           -
from_external  0             Permission denied

from_external:
    R1 invalid mem access
    Permission denied
";
        assert!(render(&report).ends_with(programs), "{}", render(&report));
        assert!(report.is_well());
        report.checks.push(check("btf", Status::Fail, "none", "build another kernel"));
        assert!(!report.is_well());
    }
}
