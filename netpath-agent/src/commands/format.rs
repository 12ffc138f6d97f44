//! How values look to people: tables, port bindings, ages and sizes, each as Docker shows it.

use std::ops::RangeInclusive;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::api::PortBinding;
use crate::binding::{from_clause, host_name, span};

/// A table as `docker ps` prints one: upper-case header, two spaces between columns, no lines.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        column.set_cell_alignment(CellAlignment::Left);
    }
    table.trim_fmt() + "\n"
}

pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `80/tcp -> 0.0.0.0:8080`, a line for each binding, as `docker port`.
pub(super) fn port_lines(ports: &[PortBinding]) -> String {
    let mut ports: Vec<_> = ports.iter().collect();
    ports.sort_by_key(|port| (port.container_port, port.proto, port.host_addr, port.host_port));
    let line = |port: &&PortBinding| {
        let host = host_name(port.host_addr, &port.host_ports());
        format!("{}/{} -> {host}{}\n", span(&port.container_ports()), port.proto, from_clause(&port.from))
    };
    ports.iter().map(line).collect()
}

/// `0.0.0.0:8080->80/tcp, 0.0.0.0:9000-9010->9000-9010/tcp`, as `docker ps`.
pub(super) fn bindings(ports: &[PortBinding]) -> String {
    let mut ports: Vec<_> = ports.iter().collect();
    ports.sort_by_key(|port| (port.proto, port.host_addr, port.host_port, port.container_port));
    let runs = ports.chunk_by(|a, b| follows(a, b));
    runs.map(|run| binding(run[0], run[run.len() - 1])).collect::<Vec<_>>().join(", ")
}

fn follows(a: &PortBinding, b: &PortBinding) -> bool {
    let next = |a: RangeInclusive<u16>, b: u16| a.end().checked_add(1) == Some(b);
    (a.proto, a.host_addr) == (b.proto, b.host_addr)
        && next(a.host_ports(), b.host_port)
        && next(a.container_ports(), b.container_port)
}

fn binding(first: &PortBinding, last: &PortBinding) -> String {
    let host = host_name(first.host_addr, &(first.host_port..=*last.host_ports().end()));
    let container = span(&(first.container_port..=*last.container_ports().end()));
    format!("{host}->{container}/{}", first.proto)
}

/// How long something has been there, in Docker's words.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `12.5 MiB`
pub(super) fn memory(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::api::{Container, Endpoint, Netns};
    use crate::port_spec::Proto;

    #[test]
    fn consecutive_bindings_are_shown_as_a_range() {
        let ports = container(
            "web",
            &[
                ("0.0.0.0", 8001, 81),
                ("0.0.0.0", 8000, 80),
                ("0.0.0.0", 8002, 90),
                ("127.0.0.1", 8003, 91),
                ("0.0.0.0", 8003, 91),
            ],
        )
        .ports;
        let expected = "0.0.0.0:8000-8001->80-81/tcp, 0.0.0.0:8002-8003->90-91/tcp, 127.0.0.1:8003->91/tcp";
        assert_eq!(bindings(&ports), expected);
        assert_eq!(bindings(&[]), "");
        let range = PortBinding { count: 3, ..ports[1].clone() };
        let v6 = PortBinding { host_addr: "::".parse().unwrap(), ..range.clone() };
        let expected = "0.0.0.0:8000-8002->80-82/tcp, [::]:8000-8002->80-82/tcp";
        assert_eq!(bindings(&[v6, range]), expected);
    }

    #[test]
    fn a_container_port_is_listed_with_where_it_is_published() {
        let ports = container("web", &[("0.0.0.0", 8443, 443), ("127.0.0.1", 8080, 80), ("0.0.0.0", 8081, 80)]).ports;
        let expected = "80/tcp -> 0.0.0.0:8081\n80/tcp -> 127.0.0.1:8080\n443/tcp -> 0.0.0.0:8443\n";
        assert_eq!(port_lines(&ports), expected);
        let from = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let range = PortBinding { count: 10, from, ..ports[0].clone() };
        let expected = "443-452/tcp -> 0.0.0.0:8443-8452 from 10.0.0.0/8, fd00::/8\n";
        assert_eq!(port_lines(&[range]), expected);
    }

    #[test]
    fn ages_are_in_dockers_words() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), expected, "{seconds} s");
        }
    }

    #[test]
    fn sizes_have_a_binary_unit() {
        for (bytes, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (u64::MAX, "16777216.0 TiB")]
        {
            assert_eq!(memory(bytes), expected);
        }
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(table(["NAME", "PORTS"], []), "NAME  PORTS\n");
    }

    /// A container with TCP ports published at (host address, host port, container port).
    pub(in crate::commands) fn container(name: &str, ports: &[(&str, u16, u16)]) -> Container {
        let binding = |&(addr, host_port, container_port): &(&str, u16, u16)| PortBinding {
            host_addr: addr.parse().unwrap(),
            host_port,
            container_port,
            count: 1,
            proto: Proto::Tcp,
            from: Vec::new(),
        };
        let endpoint = Endpoint {
            network: "bridge".to_owned(),
            interface: "eth0".to_owned(),
            address: Some(Ipv4Addr::new(172, 17, 0, 2)),
            prefix_len: 16,
            gateway: Some(Ipv4Addr::new(172, 17, 0, 1)),
            address6: None,
            prefix_len6: 0,
            gateway6: None,
            mac: "02:00:00:00:00:02".to_owned(),
            mtu: 1500,
            ifname: "veth0a1b2c3".to_owned(),
            ifindex: 7,
            cni: None,
        };
        Container {
            name: name.to_owned(),
            network_mode: "bridge".to_owned(),
            address: endpoint.address,
            address6: None,
            netns: Netns::Pid(1),
            hostname: None,
            command: Vec::new(),
            created: 1_700_000_000,
            start_ticks: None,
            endpoints: vec![endpoint],
            ports: ports.iter().map(binding).collect(),
            icc: true,
            expose: Vec::new(),
            links: Vec::new(),
            env: vec![],
            files: None,
            log_dir: "/var/lib/netpath/netpath/log".into(),
        }
    }
}
