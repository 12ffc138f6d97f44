//! `netpath doctor`: what a host has and lacks, with no agent and without changing anything.

use std::process::Command;

use netpath_tests::{Bare, Namespace, Plane, World, program};
use serde_json::Value;

on_netpath_once! {
    a_host_that_has_everything_is_well,
    netpaths_own_interfaces_are_no_externals,
    a_firewall_that_drops_what_is_forwarded_is_named,
    without_root_it_says_so_and_fails,
}

fn a_host_that_has_everything_is_well(_: Plane) {
    let bare = Bare::new();
    bare.host.ip("link add odd0 type bridge");
    let before = bare.host.interfaces();
    let report = doctor(&bare.host);
    assert_eq!(bare.host.interfaces(), before);
    let checks = report["checks"].as_array().unwrap();
    for name in ["kernel", "preemption", "privileges", "btf", "tcx", "bridge", "veth"] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"));
        assert_eq!(check["status"], "ok", "{check}");
    }
    let up0 = interface(&report, "up0");
    assert_eq!(
        (up0["driver"].as_str(), up0["external"].as_bool(), up0["mtu"].as_u64()),
        (Some("veth"), Some(true), Some(1500))
    );
    assert!(up0["native_xdp"].to_string().contains("redirect"), "{up0}");
    assert_eq!(up0["xdp_auto"], "off");
    assert!(up0["reason"].as_str().unwrap().contains("bulk TCP"), "{up0}");
    let odd0 = interface(&report, "odd0");
    assert_eq!((odd0["external"].as_bool(), &odd0["native_xdp"]), (Some(false), &Value::Array(vec![])));
}

fn netpaths_own_interfaces_are_no_externals(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80"]);
    world.kill_agent();
    let report = doctor(&world.host);
    let names: Vec<_> = report["interfaces"].as_array().unwrap().iter().map(|i| i["ifname"].clone()).collect();
    assert_eq!(names, ["up0"]);
}

fn a_firewall_that_drops_what_is_forwarded_is_named(_: Plane) {
    let bare = Bare::new();
    let firewall = || {
        let report = doctor(&bare.host);
        report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "firewall").unwrap().clone()
    };
    let nft = |rule: &str| program::stdout_of(bare.host.command("nft").arg(rule));
    nft("add table inet guard");
    nft("add chain inet guard input { type filter hook input priority 0; policy drop; }");
    nft("add chain inet guard pass { type filter hook forward priority 0; policy accept; }");
    assert_eq!(firewall()["status"], "ok");
    nft("add chain inet guard through { type filter hook forward priority 5; policy drop; }");
    let check = firewall();
    assert_eq!(check["status"], "warn");
    assert!(check["found"].as_str().unwrap().ends_with(": inet guard through"), "{check}");
}

fn without_root_it_says_so_and_fails(_: Plane) {
    let bare = Bare::new();
    let binary = bare.dir().join("netpath");
    std::fs::copy(program::netpath_binary(), &binary).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary).arg("doctor");
    let output = program::output_of(&mut command);
    let text = program::text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.contains("privileges")).unwrap();
    assert!(line.starts_with("fail") && line.contains("the agent needs root"), "{line}");
}

/// What `netpath doctor --json` says on a host where nothing fails.
fn doctor(host: &Namespace) -> Value {
    let stdout = program::stdout_of(host.command(program::netpath_binary()).args(["doctor", "--json"]));
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("json expected: {e}: {stdout}"))
}

fn interface(report: &Value, ifname: &str) -> Value {
    let interfaces = report["interfaces"].as_array().unwrap();
    let found = interfaces.iter().find(|interface| interface["ifname"] == ifname);
    found.unwrap_or_else(|| panic!("no {ifname}: {report}")).clone()
}
