//! `cargo xtask ci`: what CI runs, and nothing that a developer does not: lint, the check of what the programs cost, every
//! program on every kernel and some tests on the oldest and the newest, then the test command of the README.
//!
//! One after the other: while programs are measured, nothing else runs. What the check builds is what the tests need too.
//! What it cannot do it leaves out, and says so at the end: other kernels where they cannot be fetched. Without root it fails
//! then: nobody takes that for the whole.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, is_root, require_root, status};
use crate::vm;

/// One test of each road through the kernel, for its oldest and its newest.
const OTHER_KERNELS: &str = "test(/::netpath$/) and (\
    test(/^adopted_routed::both_families/) \
    or test(/^filters::filters_serve_both_families/) \
    or test(/^fragments::fragments_reach_a_published_port/) \
    or test(/^hairpin::a_neighbour_is_reached/) \
    or test(/^host_access::(a_published_port_cannot|the_hosts_own)/) \
    or test(/^ipv6_on_demand::the_first_network/) \
    or test(/^masquerade::tcp_server/) \
    or test(/^packet_size::datagrams_that_are_merged/) \
    or test(/^published_port::(tcp_reaches|udp_reaches)/) \
    or test(/^restart::new_connections/) \
    or test(/^teardown::down_leaves/))";

pub(crate) fn run() -> Result<ExitCode> {
    let mut left_out = Vec::new();
    if !is_root() {
        left_out.push("what needs root: bench --check, programs on packets, network namespaces".to_owned());
    }
    let has_guests = match vm::fetch() {
        Ok(()) => true,
        Err(error) => {
            left_out.push(format!("programs and tests on other kernels: {error:#}"));
            false
        }
    };
    let mut tasks = vec![vec!["lint"]];
    if is_root() {
        tasks.push(vec!["bench", "--check"]);
    }
    if has_guests {
        tasks.push(vec!["vm", "--", "programs"]);
        tasks.push(vec!["vm", "5.10", "sid", "--", "test", "-E", OTHER_KERNELS]);
    }
    tasks.push(vec!["test"]);
    for task in tasks {
        let line = format!("cargo xtask {}", task.join(" "));
        eprintln!("ci: {line}");
        let status = status(cargo().arg("xtask").args(task))?;
        if !status.success() {
            eprintln!("ci: `{line}` failed with {status}");
            return Ok(ExitCode::FAILURE);
        }
    }
    for what in &left_out {
        eprintln!("ci: left out: {what}");
    }
    require_root("ci")?;
    eprintln!("ci: passed{}", if left_out.is_empty() { "" } else { ", but for what was left out" });
    Ok(ExitCode::SUCCESS)
}
