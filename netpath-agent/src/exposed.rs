//! Exposed ports: which ports of a container links open. Pure.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::port_spec;
use crate::state::{Container, PortBinding};

/// Protocol number and port of everything that a container exposes: what it says, and the container's side of
/// what it publishes.
pub fn ports(container: &Container) -> BTreeSet<(u8, u16)> {
    let said = container.expose.iter().filter_map(|text| port_spec::parse_exposed(text).ok());
    let said = said.flat_map(|(ports, proto)| ports.map(move |port| (proto.number(), port)));
    let published = container.ports.iter().flat_map(|binding| {
        let number = binding.proto.number();
        binding.container_ports().map(move |port| (number, port))
    });
    said.chain(published).collect()
}

/// The same for people: `80/tcp`, `8000-8009/udp`.
pub fn names(container: &Container) -> Vec<String> {
    let span =
        |binding: &PortBinding| format!("{}/{}", crate::binding::span(&binding.container_ports()), binding.proto);
    let names: BTreeSet<String> = container.expose.iter().cloned().chain(container.ports.iter().map(span)).collect();
    names.into_iter().collect()
}

/// Checks exposed ports and writes them as they are kept: `PORT[-LAST]/PROTO`.
///
/// # Errors
/// If one is malformed.
pub fn normalise(texts: &[String]) -> Result<Vec<String>> {
    let one = |text: &String| {
        let (ports, proto) = port_spec::parse_exposed(text)?;
        Ok(format!("{}/{proto}", crate::binding::span(&ports)))
    };
    texts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::samples;

    #[test]
    fn exposed_ports_are_kept_in_one_form() {
        let texts = ["80", "53/udp", "8000-8002/TCP"].map(str::to_owned);
        assert_eq!(normalise(&texts).unwrap(), ["80/tcp", "53/udp", "8000-8002/tcp"]);
        for text in ["", "x", "0", "0-0/tcp", "80/icmp", "9-8"] {
            assert!(normalise(&[text.to_owned()]).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_exposed_is_what_it_says_and_what_it_publishes() {
        let container = Container { expose: vec!["80-81/tcp".to_owned(), "53/udp".to_owned()], ..samples::container() };
        assert_eq!(ports(&container), BTreeSet::from([(6, 80), (6, 81), (17, 53)]));
    }
}
