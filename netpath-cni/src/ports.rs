//! Port mappings as the runtime has them, and as the agent takes them.

use std::net::IpAddr;

use netpath_agent::api::{Container, PortBinding};

use crate::config::PortMapping;
use crate::error::{CniError, Code};

/// The mappings as `-p` has them.
pub(crate) fn specs(mappings: &[PortMapping]) -> Result<Vec<String>, CniError> {
    mappings.iter().map(|mapping| spec(mapping, |host, container| format!("{host}:{container}"))).collect()
}

/// The mappings as they are unpublished.
pub(crate) fn published(mappings: &[PortMapping]) -> Result<Vec<String>, CniError> {
    mappings.iter().map(|mapping| spec(mapping, |host, _| host.to_string())).collect()
}

/// The mappings that `container` does not publish.
pub(crate) fn missing<'a>(mappings: &'a [PortMapping], container: &Container) -> Vec<&'a PortMapping> {
    mappings.iter().filter(|mapping| !container.ports.iter().any(|port| is_same(mapping, port))).collect()
}

fn spec(mapping: &PortMapping, ports: fn(u16, u16) -> String) -> Result<String, CniError> {
    let invalid = |what: &str| CniError::new(Code::InvalidConfig, format!("port mapping with {what}"));
    let port = |number: u32, what| {
        let number = u16::try_from(number).ok().filter(|number| *number != 0);
        number.ok_or_else(|| invalid(what))
    };
    let host = port(mapping.host_port, "a hostPort that is none (1 to 65535)")?;
    let container = port(mapping.container_port, "a containerPort that is none (1 to 65535)")?;
    let address = match host_addr(mapping)? {
        None => String::new(),
        Some(IpAddr::V4(addr)) => format!("{addr}:"),
        Some(IpAddr::V6(addr)) => format!("[{addr}]:"),
    };
    Ok(format!("{address}{}/{}", ports(host, container), proto(mapping)))
}

fn host_addr(mapping: &PortMapping) -> Result<Option<IpAddr>, CniError> {
    let text = mapping.host_ip.as_str();
    if text.is_empty() {
        return Ok(None);
    }
    let invalid =
        |_| CniError::new(Code::InvalidConfig, format!("port mapping with hostIP `{text}`, which is no address"));
    text.parse().map(Some).map_err(invalid)
}

fn proto(mapping: &PortMapping) -> String {
    if mapping.protocol.is_empty() { "tcp".to_owned() } else { mapping.protocol.to_ascii_lowercase() }
}

fn is_same(mapping: &PortMapping, port: &PortBinding) -> bool {
    let same_address = match mapping.host_ip.parse::<IpAddr>() {
        Ok(addr) => port.host_addr == addr,
        // Where the network publishes; the agent alone knows.
        Err(_) => true,
    };
    let host = u16::try_from(mapping.host_port).ok();
    let target =
        host.filter(|host| port.host_ports().contains(host)).map(|host| host - port.host_port + port.container_port);
    same_address && port.proto.to_string() == proto(mapping) && target.map(u32::from) == Some(mapping.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_port: u32, container_port: u32, protocol: &str) -> PortMapping {
        PortMapping { host_port, container_port, protocol: protocol.to_owned(), host_ip: host_ip.to_owned() }
    }

    #[test]
    fn mappings_become_what_the_agent_takes() {
        let mappings = [mapping("", 8080, 80, "TCP"), mapping("::1", 53, 5353, "udp"), mapping("192.0.2.1", 1, 2, "")];
        assert_eq!(specs(&mappings).unwrap(), ["8080:80/tcp", "[::1]:53:5353/udp", "192.0.2.1:1:2/tcp"]);
        assert_eq!(published(&mappings).unwrap(), ["8080/tcp", "[::1]:53/udp", "192.0.2.1:1/tcp"]);
        for text in specs(&mappings).unwrap() {
            assert!(netpath_agent::port_spec::parse(&text).is_ok(), "{text}");
        }
        for text in published(&mappings).unwrap() {
            assert!(netpath_agent::port_spec::parse_published(&text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_port_or_address_is_refused() {
        for mapping in [
            mapping("", 0, 80, "tcp"),
            mapping("", 65536, 80, "tcp"),
            mapping("", 80, 0, ""),
            mapping("host", 80, 80, ""),
        ] {
            assert!(specs(&[mapping]).unwrap_err().is(Code::InvalidConfig));
        }
    }

    #[test]
    fn a_mapping_is_published_as_one_port_of_a_range_too() {
        let port = PortBinding {
            host_addr: "0.0.0.0".parse().unwrap(),
            host_port: 8000,
            container_port: 80,
            count: 10,
            proto: netpath_agent::port_spec::Proto::Tcp,
            from: vec![],
        };
        assert!(is_same(&mapping("", 8003, 83, "tcp"), &port));
        assert!(!is_same(&mapping("", 8003, 80, "tcp"), &port));
        assert!(!is_same(&mapping("", 8003, 83, "udp"), &port));
        assert!(!is_same(&mapping("", 7999, 79, "tcp"), &port));
        assert!(!is_same(&mapping("192.0.2.1", 8003, 83, "tcp"), &port));
    }
}
