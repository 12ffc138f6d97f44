//! `netpath conntrack`: lists, counts and deletes flows, in the format of conntrack-tools.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;

use crate::api::{Deleted, Flow};
use crate::cli_conntrack::{ConntrackArgs, ConntrackFilter};
use crate::client::{Client, encode};

pub(super) async fn run(client: &Client, args: &ConntrackArgs) -> Result<ExitCode> {
    let path = format!("/v1/conntrack{}", query(&args.filter));
    if args.action.delete || args.action.flush {
        return delete(client, &path, args).await;
    }
    let flows: Vec<Flow> = client.get(&path).await?;
    if args.action.count {
        super::print(&format!("{}\n", flows.len()))?;
    } else if args.json {
        super::print_json(&flows)?;
    } else {
        super::print(&flows.iter().map(line).collect::<String>())?;
        eprintln!("{} flow entries have been shown.", flows.len());
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(client: &Client, path: &str, args: &ConntrackArgs) -> Result<ExitCode> {
    let answer: Deleted = client.delete(path).await?;
    if args.json {
        super::print_json(&answer)?;
    } else {
        eprintln!("{} flow entries have been deleted.", answer.deleted);
    }
    // As conntrack-tools: to delete nothing is a failure, to find the table empty is not.
    let nothing = args.action.delete && answer.deleted == 0;
    Ok(if nothing { ExitCode::from(super::PROBLEM) } else { ExitCode::SUCCESS })
}

fn query(filter: &ConntrackFilter) -> String {
    let text = |value: &Option<_>| value.as_ref().map(|value: &String| value.to_lowercase());
    let options = [
        ("proto", text(&filter.proto)),
        ("src", filter.src.map(|addr| addr.to_string())),
        ("dst", filter.dst.map(|addr| addr.to_string())),
        ("sport", filter.sport.map(|port| port.to_string())),
        ("dport", filter.dport.map(|port| port.to_string())),
        ("name", filter.name.clone()),
    ];
    let pairs = options.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))));
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() { query } else { format!("?{query}") }
}

/// One flow: as the container's packets carry it, then as the replies do.
fn line(flow: &Flow) -> String {
    let mut line = format!("{:<8} {} {} ", flow.proto, number(&flow.proto), flow.expires_s);
    let replied = !matches!(flow.state.as_str(), "UNREPLIED" | "SYN_SENT");
    if flow.proto == "tcp" {
        line += &format!("{} ", flow.state);
    }
    let (orig, reply) = match flow.proto.as_str() {
        "icmp" => (format!("type=8 code=0 id={}", flow.sport), format!("type=0 code=0 id={}", flow.nat_port)),
        _ => (
            format!("sport={} dport={}", flow.sport, flow.dport),
            format!("sport={} dport={}", flow.dport, flow.nat_port),
        ),
    };
    let unreplied = if replied { "" } else { "[UNREPLIED] " };
    let assured = if replied { " [ASSURED]" } else { "" };
    let (src, dst, nat_addr) = (flow.src, flow.dst, flow.nat_addr);
    let tuples = format!("src={src} dst={dst} {orig} {unreplied}src={dst} dst={nat_addr} {reply}");
    let _ = writeln!(line, "{tuples}{assured} name={}", flow.name);
    line
}

fn number(proto: &str) -> u8 {
    use netpath_common::proto;
    match proto {
        "icmp" => proto::ICMP,
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn flows_look_as_conntrack_shows_them() {
        assert_eq!(
            line(&flow("tcp", "ESTABLISHED")),
            "tcp      6 117 ESTABLISHED src=172.17.0.2 dst=192.0.2.9 sport=40000 dport=443 \
             src=192.0.2.9 dst=10.0.0.1 sport=443 dport=2000 [ASSURED] name=web\n"
        );
        assert_eq!(
            line(&flow("udp", "UNREPLIED")),
            "udp      17 117 src=172.17.0.2 dst=192.0.2.9 sport=40000 dport=443 [UNREPLIED] \
             src=192.0.2.9 dst=10.0.0.1 sport=443 dport=2000 name=web\n"
        );
        assert_eq!(
            line(&flow("icmp", "ASSURED")),
            "icmp     1 117 src=172.17.0.2 dst=192.0.2.9 type=8 code=0 id=40000 \
             src=192.0.2.9 dst=10.0.0.1 type=0 code=0 id=2000 [ASSURED] name=web\n"
        );
    }

    #[test]
    fn a_filter_becomes_a_query() {
        assert_eq!(query(&ConntrackFilter::default()), "");
        let filter = ConntrackFilter {
            proto: Some("TCP".to_owned()),
            src: Some(Ipv4Addr::new(172, 17, 0, 2).into()),
            dport: Some(80),
            name: Some("a&b".to_owned()),
            ..Default::default()
        };
        assert_eq!(query(&filter), "?proto=tcp&src=172.17.0.2&dport=80&name=a%26b");
    }

    fn flow(proto: &str, state: &str) -> Flow {
        Flow {
            proto: proto.to_owned(),
            state: state.to_owned(),
            expires_s: 117,
            name: "web".to_owned(),
            src: Ipv4Addr::new(172, 17, 0, 2).into(),
            sport: 40000,
            dst: Ipv4Addr::new(192, 0, 2, 9).into(),
            dport: 443,
            nat_addr: Ipv4Addr::new(10, 0, 0, 1).into(),
            nat_port: 2000,
        }
    }
}
