//! `netpath rules`: what `iptables -L -v -n` would have shown, had there been rules.

use std::process::ExitCode;

use anyhow::Result;

use super::format::{or_dash, table};
use crate::api::Rule;
use crate::client::Client;

pub(super) async fn run(client: &Client, json: bool) -> Result<ExitCode> {
    let rules: Vec<Rule> = client.get("/v1/rules").await?;
    if json {
        super::print_json(&rules)?;
    } else {
        super::print(&render(&rules))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(rules: &[Rule]) -> String {
    let rows = rules.iter().map(|rule| {
        [
            number(rule.packets),
            number(rule.bytes),
            rule.kind.clone(),
            or_dash(&rule.name),
            or_dash(&rule.matches),
            or_dash(&rule.action),
        ]
    });
    table(["PKTS", "BYTES", "RULE", "NAME", "MATCH", "ACTION"], rows)
}

fn number(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_packets_and_bytes() {
        let rule = |kind: &str, name: &str, matches: &str, action: &str| Rule {
            kind: kind.to_owned(),
            name: name.to_owned(),
            matches: matches.to_owned(),
            action: action.to_owned(),
            packets: Some(12),
            bytes: Some(3456),
        };
        let uncounted = Rule { packets: None, bytes: None, ..rule("routed", "lan", "", "accept") };
        let dnat = rule("dnat", "web", "tcp 0.0.0.0:8080", "to 172.17.0.2:80");
        let rules = [dnat, uncounted, rule("drop", "", "", "direct-access")];
        assert_eq!(
            render(&rules),
            "\
PKTS  BYTES  RULE    NAME  MATCH             ACTION
12    3456   dnat    web   tcp 0.0.0.0:8080  to 172.17.0.2:80
-     -      routed  lan   -                 accept
12    3456   drop    -     -                 direct-access
"
        );
    }
}
