//! `netpath monitor`: drops and new flows, a line each, as they happen.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::format::or_dash;
use crate::api::Event;
use crate::client::Client;

pub(super) async fn run(client: &Client, json: bool) -> Result<ExitCode> {
    let mut events = client.events().await?;
    while let Some(event) = events.next().await? {
        let text = if json { serde_json::to_string(&event).context("encode JSON")? } else { line(&event) };
        super::print(&(text + "\n"))?;
    }
    eprintln!("the agent has ended");
    Ok(ExitCode::from(super::PROBLEM))
}

fn line(event: &Event) -> String {
    let Event { kind, ifname, proto, src, sport, dst, dport, bytes, .. } = event;
    let what = match (&event.reason, event.nat_port) {
        (Some(reason), _) => format!("{kind:<8} {reason}"),
        (None, Some(port)) => format!("{kind:<8} from port {port}"),
        (None, None) => kind.clone(),
    };
    format!("{what:<32} {:<12} {proto} {src}:{sport} > {dst}:{dport} {bytes} bytes", or_dash(ifname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let drop = Event {
            kind: "drop".to_owned(),
            reason: Some("icc".to_owned()),
            ifname: "veth0a1b2c3".to_owned(),
            proto: "tcp".to_owned(),
            src: "172.17.0.2".to_owned(),
            sport: 40000,
            dst: "172.17.0.3".to_owned(),
            dport: 80,
            nat_port: None,
            bytes: 60,
        };
        assert_eq!(
            line(&drop),
            "drop     icc                     veth0a1b2c3  tcp 172.17.0.2:40000 > 172.17.0.3:80 60 bytes"
        );
        let flow = Event { kind: "new-flow".to_owned(), reason: None, nat_port: Some(2000), ..drop };
        assert!(line(&flow).starts_with("new-flow from port 2000 "), "{}", line(&flow));
    }
}
