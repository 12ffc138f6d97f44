//! From options to a loaded data plane: the settings and the sizes of its maps, and what an earlier agent's maps
//! leave of the options.

use anyhow::{Context, Result};
use netpath_common::{Config, External, LAYOUT, PortRange, config_flag};

use crate::datapath::{Adoption, Datapath, Sizes, probes};
use crate::host;
use crate::options::Options;
use crate::state::MAX_NETWORKS;

/// Ports that masquerade gives to inside ports below 1024; those under 600 belong to services.
const PRIVILEGED_PORTS: PortRange = PortRange { first: 600, last: 1023 };
/// Below this beginning of the ephemeral range the ports above it are the larger part.
const LOW_EPHEMERAL: u16 = 16_384;

/// A data plane that is not told the settings yet if it was there before.
pub(crate) struct Loaded {
    pub(crate) datapath: Datapath,
    pub(crate) adoption: Adoption,
    /// The settings that it is to have.
    pub(crate) config: Config,
}

impl Loaded {
    /// Loads the data plane, and cuts `options` down to the sizes of maps that were there before.
    ///
    /// # Errors
    /// If the kernel refuses, or the pinned maps are another version's.
    pub(crate) fn load(options: &mut Options) -> Result<Self> {
        let sizes = sizes(options);
        let mut config = config(options)?;
        let (mut datapath, adoption) = Datapath::load(&options.pin_dir, &sizes, config)?;
        let has_links = match options.tcx {
            Some(tcx) => tcx,
            None => probes::tcx()?,
        };
        if adoption == Adoption::Fresh && !has_links {
            datapath.use_filters()?;
        }
        if adoption == Adoption::Adopted {
            if has_links == datapath.has_filters() {
                tracing::warn!("--tcx: programs stay attached as they are; to change that type `netpath down` first");
            }
            let old = datapath.config();
            // The key decides where the ports of living flows lie.
            config = Config { hash_key: old.hash_key, max_flows: old.max_flows, ..config };
            for warning in fit(options, &datapath.sizes()) {
                tracing::warn!("{warning}");
            }
            tracing::info!("took over the data plane pinned in {}", options.pin_dir.display());
        }
        Ok(Self { datapath, adoption, config })
    }
}

fn sizes(options: &Options) -> Sizes {
    Sizes {
        max_flows: options.max_flows,
        max_ports: options.max_ports,
        // Index 0 is nobody's.
        max_endpoints: options.max_endpoints + 1,
        // One counter for each published port, two for each endpoint, network and link; index 0 is nobody's.
        max_counters: 1 + 2 * (MAX_NETWORKS + 1) + 2 * 2 * options.max_endpoints + options.max_ports,
    }
}

/// Cuts `options` down to what fits maps of these sizes; what is to be said about it.
fn fit(options: &mut Options, sizes: &Sizes) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut fit = |name, wanted: &mut u32, size: u32| {
        if *wanted != size {
            // Flows are the programs' own, which fill the table whatever the option says.
            let used = if name == "max-flows" { size } else { size.min(*wanted) };
            warnings.push(format!(
                "--{name} {wanted}: the pinned table has room for {size}, so {used} is in force; for another size of \
                 the table type `netpath down` first"
            ));
            *wanted = used;
        }
    };
    fit("max-flows", &mut options.max_flows, sizes.max_flows);
    fit("max-ports", &mut options.max_ports, sizes.max_ports);
    fit("max-endpoints", &mut options.max_endpoints, sizes.max_endpoints - 1);
    warnings
}

fn config(options: &Options) -> Result<Config> {
    let ports = match options.masquerade_ports {
        Some(ports) => ports,
        None => masquerade_ports(host::ephemeral_ports()?)?,
    };
    Ok(Config {
        layout: LAYOUT,
        hash_key: u64::from_ne_bytes(host::random()?),
        netns_cookie: host::netns_cookie()?,
        flags: if options.shortcuts { config_flag::SHORTCUTS } else { 0 },
        max_flows: options.max_flows,
        timeouts: options.timeouts,
        ports,
        privileged_ports: PRIVILEGED_PORTS,
        primary_ifindex: 0,
        primary: External::default(),
    })
}

/// The ports for masquerade: the larger part of what the host's own sockets do not get by themselves.
fn masquerade_ports(ephemeral: PortRange) -> Result<PortRange> {
    let below = (ephemeral.first > 1024).then(|| PortRange { first: 1024, last: ephemeral.first - 1 });
    let above = (ephemeral.last < u16::MAX).then(|| PortRange { first: ephemeral.last + 1, last: u16::MAX });
    let chosen = if ephemeral.first <= LOW_EPHEMERAL { above.or(below) } else { below };
    chosen.with_context(|| {
        format!(
            "net.ipv4.ip_local_port_range {}-{} leaves no port for masquerade; narrow it or choose --masquerade-ports",
            ephemeral.first, ephemeral.last
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_do_not_ask_for_more_than_the_pinned_tables_hold() {
        let mut options = Options::resolve(Default::default(), std::path::Path::new("/run/x.sock")).unwrap();
        let sizes = sizes(&options);
        assert!(fit(&mut options, &sizes).is_empty());
        (options.max_flows, options.max_ports, options.max_endpoints) = (64, 70_000, 5000);
        let warnings = fit(&mut options, &sizes);
        assert_eq!((options.max_flows, options.max_ports, options.max_endpoints), (131_072, 65_536, 4096));
        assert!(warnings.len() == 3 && warnings.iter().all(|text| text.contains("netpath down")), "{warnings:?}");
        options.max_ports = 100;
        assert!(fit(&mut options, &sizes)[0].contains("100 is in force"));
        assert_eq!(options.max_ports, 100);
    }

    #[test]
    fn masquerade_and_the_hosts_own_sockets_never_share_a_port() {
        let range = |first, last| PortRange { first, last };
        for (ephemeral, want) in [
            (range(32768, 60999), range(1024, 32767)),
            (range(16385, 60999), range(1024, 16384)),
            (range(16384, 60999), range(61000, 65535)),
            (range(1024, 50000), range(50001, 65535)),
            (range(10000, 65535), range(1024, 9999)),
        ] {
            assert_eq!(masquerade_ports(ephemeral).unwrap(), want, "{ephemeral:?}");
        }
        assert!(masquerade_ports(range(1024, 65535)).is_err());
    }
}
