//! How many entries the maps have.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::maps::MapData;

use crate::state::MAX_NETWORKS;

/// One flow may leave a mapping behind that nobody has collected yet, so there are some more.
const MIN_MAPPINGS: u32 = 1024;

/// How many entries the maps have. They are allocated when the data plane is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub max_flows: u32,
    pub max_ports: u32,
    pub max_endpoints: u32,
    pub max_counters: u32,
}

impl Sizes {
    /// Those of maps that are pinned.
    pub(super) fn of_pinned(maps_dir: &Path) -> Result<Self> {
        let size = |name: &str| -> Result<u32> {
            let map = MapData::from_pin(maps_dir.join(name)).with_context(|| format!("open pin {name}"))?;
            Ok(map.info().with_context(|| format!("query {name}"))?.max_entries())
        };
        Ok(Self {
            max_flows: size("FLOWS_V4")?,
            max_ports: size("PUBLISHED_PORTS_V4")?,
            max_endpoints: size("ENDPOINTS")?,
            max_counters: size("COUNTERS")?,
        })
    }
}

/// Sets the sizes of the maps. Those that are pinned keep their own, which have to be these: what walks through an array
/// believes what is set here.
pub(super) fn set(loader: &mut EbpfLoader<'_>, sizes: &Sizes) {
    for (name, size) in [
        ("ENDPOINTS", sizes.max_endpoints),
        ("GATEWAYS", sizes.max_endpoints + MAX_NETWORKS),
        ("PREFIXES_V4", sizes.max_endpoints + MAX_NETWORKS),
        ("PREFIXES_V6", sizes.max_endpoints + MAX_NETWORKS),
        ("SHARES_V4", sizes.max_endpoints),
        ("SHARES_V6", sizes.max_endpoints),
        ("COUNTERS", sizes.max_counters),
    ] {
        loader.map_max_entries(name, size);
    }
    for (name4, name6, size) in [
        ("ADDRESSES_V4", "ADDRESSES_V6", 2 * sizes.max_endpoints),
        ("PUBLISHED_PORTS_V4", "PUBLISHED_PORTS_V6", sizes.max_ports),
        ("PUBLISHED_SOURCES_V4", "PUBLISHED_SOURCES_V6", sizes.max_ports),
        ("FLOWS_V4", "FLOWS_V6", sizes.max_flows),
        ("FLOW_RING_V4", "FLOW_RING_V6", sizes.max_flows),
        // One flow may leave a mapping behind that nobody has collected yet.
        ("MAPPINGS_V4", "MAPPINGS_V6", sizes.max_flows.max(MIN_MAPPINGS)),
        ("REPLIES_V4", "REPLIES_V6", (sizes.max_flows / 4).max(MIN_MAPPINGS)),
    ] {
        loader.map_max_entries(name4, size);
        loader.map_max_entries(name6, size);
    }
}
