//! Port bindings as the state keeps them: one by one in memory, runs of them as one entry on disk, so
//! that a range of ten thousand ports costs no more to save than a single one.

use std::net::Ipv4Addr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::port_spec::Proto;

/// A published port as it was asked for: `host_addr` may be 0.0.0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBinding {
    pub host_addr: Ipv4Addr,
    pub host_port: u16,
    pub container_port: u16,
    pub proto: Proto,
    /// Index into `COUNTERS`.
    pub counter: u32,
}

/// `count` bindings of which each has the one before's ports and counter plus one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    host_addr: Ipv4Addr,
    host_port: u16,
    container_port: u16,
    proto: Proto,
    counter: u32,
    count: u16,
}

impl Run {
    fn nth(&self, i: u16) -> Option<PortBinding> {
        Some(PortBinding {
            host_addr: self.host_addr,
            host_port: self.host_port.checked_add(i)?,
            container_port: self.container_port.checked_add(i)?,
            proto: self.proto,
            counter: self.counter.checked_add(u32::from(i))?,
        })
    }
}

/// Writes bindings as runs; for `#[serde(with)]`.
pub(crate) fn serialize<S: Serializer>(bindings: &[PortBinding], serializer: S) -> Result<S::Ok, S::Error> {
    let mut runs: Vec<Run> = Vec::new();
    for binding in bindings {
        match runs.last_mut() {
            Some(run) if run.count < u16::MAX && run.nth(run.count) == Some(*binding) => run.count += 1,
            _ => runs.push(Run {
                host_addr: binding.host_addr,
                host_port: binding.host_port,
                container_port: binding.container_port,
                proto: binding.proto,
                counter: binding.counter,
                count: 1,
            }),
        }
    }
    runs.serialize(serializer)
}

/// Reads what [`serialize`] wrote; for `#[serde(with)]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PortBinding>, D::Error> {
    let runs = Vec::<Run>::deserialize(deserializer)?;
    let bindings: Option<_> = runs.iter().flat_map(|run| (0..run.count).map(|i| run.nth(i))).collect();
    bindings.ok_or_else(|| D::Error::custom("a run of ports goes past the last port"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] Vec<PortBinding>);

    #[test]
    fn a_range_is_one_entry_on_disk() {
        let bindings: Vec<_> = (0..10_000).map(|i| binding(8000 + i, 8000 + i, 1 + u32::from(i))).collect();
        let text = serde_json::to_string(&Holder(bindings)).unwrap();
        assert_eq!(text.matches("host_port").count(), 1, "{text}");
        assert!(text.contains("\"count\":10000"), "{text}");
    }

    #[test]
    fn a_run_past_the_last_port_is_refused() {
        let text = serde_json::to_string(&Holder(vec![binding(65535, 80, 1)])).unwrap();
        assert!(serde_json::from_str::<Holder>(&text.replace("\"count\":1", "\"count\":2")).is_err());
    }

    proptest! {
        #[test]
        fn bindings_survive_the_disk(
            parts in prop::collection::vec((0u16..4, 0u16..4, 0u32..4), 0..40),
        ) {
            let bindings: Vec<_> = parts.iter().map(|(h, c, n)| binding(80 + h, 80 + c, 1 + n)).collect();
            let text = serde_json::to_string(&Holder(bindings.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Holder>(&text).unwrap().0, bindings);
        }
    }

    fn binding(host_port: u16, container_port: u16, counter: u32) -> PortBinding {
        PortBinding { host_addr: Ipv4Addr::UNSPECIFIED, host_port, container_port, proto: Proto::Tcp, counter }
    }
}
