//! What netfilter holds in a namespace: on the netpath plane, nothing.

use crate::{Namespace, program};

const TABLES: [&str; 4] = ["filter", "nat", "mangle", "raw"];

/// What netfilter should not hold, one line each: rules, tables, tracked connections.
pub fn traces(namespace: &Namespace) -> Vec<String> {
    let mut traces = Vec::new();
    for command in [&["iptables-save"][..], &["ip6tables-save"], &["nft", "list", "ruleset"]] {
        let rules = program::stdout_of(namespace.command(command[0]).args(&command[1..]));
        if !rules.trim().is_empty() {
            traces.push(format!("`{}` shows:\n{rules}", command.join(" ")));
        }
    }
    let count = connections(namespace);
    if count != 0 {
        traces.push(format!("{count} entries in the conntrack table"));
    }
    traces
}

/// Number of entries in the conntrack table.
pub fn connections(namespace: &Namespace) -> u32 {
    namespace.sysctl("net/netfilter/nf_conntrack_count").parse().expect("a number of entries")
}

/// What somebody does who wants a clean firewall: flush and delete everything.
pub fn flush(namespace: &Namespace) {
    for (program, table) in ["iptables", "ip6tables"].into_iter().flat_map(|p| TABLES.map(|table| (p, table))) {
        program::output_of(namespace.command(program).args(["-t", table, "-F"]));
        program::output_of(namespace.command(program).args(["-t", table, "-X"]));
    }
    program::stdout_of(namespace.command("nft").args(["flush", "ruleset"]));
}
