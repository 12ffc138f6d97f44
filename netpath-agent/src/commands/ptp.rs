//! `netpath ptp`: links from point to point.

use std::process::ExitCode;

use anyhow::Result;

use super::format::table;
use crate::api::{Ptp, PtpCreate, PtpEnd};
use crate::cli_link::PtpCommand;
use crate::client::{Client, encode};

pub(super) async fn run(client: &Client, command: PtpCommand) -> Result<ExitCode> {
    match command {
        PtpCommand::Create(args) => {
            let request = PtpCreate { a: args.a, b: args.b, addresses: args.address };
            let ptp: Ptp = client.post("/v1/ptp", &request).await?;
            super::print(&render(&[ptp]))?;
        }
        PtpCommand::Rm(args) => {
            let _: Ptp = client.delete(&format!("/v1/ptp/{}/{}", encode(&args.a), encode(&args.b))).await?;
        }
        PtpCommand::Ls(args) => {
            let ptps: Vec<Ptp> = client.get("/v1/ptp").await?;
            if args.json {
                super::print_json(&ptps)?;
            } else {
                super::print(&render(&ptps))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn render(ptps: &[Ptp]) -> String {
    let addresses = |end: &PtpEnd| end.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let rows = ptps.iter().flat_map(|ptp| {
        [(&ptp.a, &ptp.b), (&ptp.b, &ptp.a)]
            .map(|(own, peer)| [own.container.clone(), own.interface.clone(), addresses(own), peer.container.clone()])
    });
    table(["CONTAINER", "INTERFACE", "ADDRESSES", "PEER"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_a_line() {
        let end = |name: &str, addr: &str| PtpEnd {
            container: name.to_owned(),
            interface: "eth1".to_owned(),
            addresses: vec![addr.parse().unwrap()],
            mac: "02:00:00:00:00:01".to_owned(),
        };
        let ptp = Ptp { a: end("web", "10.1.1.1/32"), b: end("db", "10.1.1.2/32") };
        let lines = render(&[ptp]);
        let words: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1..], [vec!["web", "eth1", "10.1.1.1/32", "db"], vec!["db", "eth1", "10.1.1.2/32", "web"]]);
    }
}
