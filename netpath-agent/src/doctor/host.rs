//! What the host is set up like: file systems, sysctls, memory, the firewall.

use std::fs;
use std::path::Path;

use super::{Check, ok, warn};
use crate::datapath::probes;
use crate::host;
use crate::netlink::nftables::dropping_forward_chains;

/// What the tables take, with some room. With the default sizes the kernel charges 76 MiB for them when the agent starts
/// (the sum of `memlock` in its /proc/PID/fdinfo; Linux 6.18, two CPUs), and more as traffic fills those of IPv6.
const WANTED_MIB: u64 = 128;

pub(super) fn checks() -> Vec<Check> {
    vec![bpf_fs(), memory(), forwarding(), ipv6(), firewall()]
}

fn bpf_fs() -> Check {
    const NAME: &str = "bpf file system";
    match host::is_on_bpf_fs(Path::new(host::BPF_FS)) {
        Ok(true) => ok(NAME, host::BPF_FS),
        Ok(false) => ok(NAME, format!("none on {}; the agent mounts it", host::BPF_FS)),
        Err(error) => super::unknown(NAME, &error),
    }
}

fn memory() -> Check {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map(|kib| kib / 1024);
    match available {
        Some(mib) if mib < WANTED_MIB => warn(
            "memory",
            format!("{mib} MiB available"),
            format!(
                "the tables want some {WANTED_MIB} MiB; choose smaller ones: --max-flows, --max-ports, --max-endpoints"
            ),
        ),
        Some(mib) => {
            let limit = match probes::limits_locked_memory() {
                Ok(true) => "the agent lifts the limit on locked memory",
                _ => "no limit on locked memory applies",
            };
            ok("memory", format!("{mib} MiB available; {limit}"))
        }
        None => ok("memory", "not known"),
    }
}

fn forwarding() -> Check {
    const NAME: &str = "ip_forward";
    match host::ip_forward() {
        Ok(true) => ok(NAME, "on"),
        Ok(false) => ok(NAME, "off; the agent turns it on, but with --ip-forward=false"),
        Err(error) => super::unknown(NAME, &error),
    }
}

fn ipv6() -> Check {
    match host::require_ipv6() {
        Ok(()) => ok("ipv6", "on"),
        Err(error) => warn("ipv6", format!("{error:#}"), "networks have IPv4 only, and --ipv6 is refused"),
    }
}

/// Chains whose policy is to drop what the host forwards, rules are not looked at: that is the kernel's road to containers and out of them.
fn firewall() -> Check {
    const NAME: &str = "firewall";
    const ADVICE: &str =
        "shortcuts pass it by; what takes the kernel's road is dropped, as with --shortcuts=off: accept it there";
    let mut dropping = if has_nf_tables() { dropping_forward_chains() } else { Ok(Vec::new()) };
    if let Ok(chains) = &mut dropping {
        chains.extend(legacy_chains());
    }
    match dropping {
        Ok(chains) if chains.is_empty() => ok(NAME, "no forward chain's policy is to drop"),
        Ok(chains) => warn(NAME, format!("the policy is to drop what is forwarded: {}", chains.join(", ")), ADVICE),
        Err(error) => super::unknown(NAME, &error),
    }
}

/// Chains that may be such ones: the legacy iptables keep their policy to themselves.
fn legacy_chains() -> impl Iterator<Item = String> {
    let names = |family: &str| fs::read_to_string(format!("/proc/net/{family}_tables_names")).unwrap_or_default();
    let has_filter = move |family: &str| names(family).lines().any(|table| table == "filter");
    let families = ["ip", "ip6"].into_iter().filter(move |family| has_filter(family));
    families.map(|family| format!("perhaps {family}tables-legacy FORWARD"))
}

/// Whether nf_tables is there: to ask a kernel where it is a module would load it.
fn has_nf_tables() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim());
    let is_built_in = fs::read_to_string(modules.join("modules.builtin")).map(|text| text.contains("/nf_tables.ko"));
    // Without modules there is nothing to load.
    Path::new("/sys/module/nf_tables").exists() || is_built_in.unwrap_or(!modules.exists())
}
