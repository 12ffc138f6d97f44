//! `netpath doctor`: what a host has and lacks, with no agent and without changing anything.

use std::process::Command;

use netpath_tests::kernel::is_since;
use netpath_tests::{Bare, Namespace, Plane, World, program};
use serde_json::Value;

on_netpath_once! {
    a_host_that_has_everything_is_well,
    netpaths_own_interfaces_are_no_externals,
    a_firewall_that_drops_what_is_forwarded_is_named,
    without_root_it_says_so_and_fails,
    capabilities_that_others_imply_are_not_asked_for,
    the_kernel_says_what_it_thinks_of_every_program,
}

fn a_host_that_has_everything_is_well(_: Plane) {
    let bare = Bare::new();
    bare.host.ip("link add odd0 type bridge");
    let before = bare.host.interfaces();
    let report = doctor(&bare.host);
    assert_eq!(bare.host.interfaces(), before);
    for name in ["kernel", "preemption", "privileges", "btf", "bridge"] {
        let check = check(&report, name);
        assert_eq!(check["status"], "ok", "{check}");
    }
    // The doctor tries; when Linux came by it, everybody can look up.
    for (name, is_there) in [("tcx", is_since(6, 6)), ("namespace cookies", is_since(5, 14)), ("veth", is_since(5, 13))]
    {
        let check = check(&report, name);
        assert_eq!(check["status"], if is_there { "ok" } else { "warn" }, "{check}");
    }
    let up0 = interface(&report, "up0");
    assert_eq!(
        (up0["driver"].as_str(), up0["external"].as_bool(), up0["mtu"].as_u64()),
        (Some("veth"), Some(true), Some(1500))
    );
    // Drivers say what they can do since Linux 6.3.
    assert_eq!(up0["native_xdp"].to_string().contains("redirect"), is_since(6, 3), "{up0}");
    assert_eq!(up0["xdp_auto"], "off");
    assert!(up0["reason"].as_str().unwrap().contains("bulk TCP"), "{up0}");
    let odd0 = interface(&report, "odd0");
    let nothing = if is_since(6, 3) { Value::Array(vec![]) } else { Value::Null };
    assert_eq!((odd0["external"].as_bool(), &odd0["native_xdp"]), (Some(false), &nothing));
}

fn the_kernel_says_what_it_thinks_of_every_program(_: Plane) {
    let bare = Bare::new();
    let output =
        program::output_of(bare.host.command(program::netpath_binary()).args(["doctor", "--programs", "--json"]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let programs = report["programs"].as_array().unwrap();
    // Before Linux 5.16 it says yes or no, and not after how many instructions.
    let tells = programs.iter().any(|program| program["instructions"] != 0);
    for name in ["from_external", "from_container6", "host_bind4", "xdp_from_external_generic"] {
        let of = programs.iter().find(|program| program["name"] == name);
        assert_eq!(of.unwrap()["instructions"].as_u64().unwrap() > 10, tells, "{of:?}");
    }
    assert!(programs.iter().all(|program| program["refusal"] == Value::Array(vec![])), "{programs:?}");
    assert_eq!(check(&report, "programs")["status"], "ok");
    assert!(doctor(&bare.host)["programs"].as_array().unwrap().is_empty(), "only when asked");
}

fn netpaths_own_interfaces_are_no_externals(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80"]);
    world.kill_agent();
    world.host.ip("link set up0 alias netpath-uplink");
    let report = doctor(&world.host);
    let names: Vec<_> = report["interfaces"].as_array().unwrap().iter().map(|i| i["ifname"].clone()).collect();
    assert_eq!(names, ["up0"]);
}

fn a_firewall_that_drops_what_is_forwarded_is_named(_: Plane) {
    const NOTHING: &str = "no forward chain's policy is to drop";
    let bare = Bare::new();
    let firewall = || check(&doctor(&bare.host), "firewall");
    let nft = |rule: &str| program::stdout_of(bare.host.command("nft").arg(rule));
    nft("add table inet guard");
    nft("add chain inet guard input { type filter hook input priority 0; policy drop; }");
    nft("add chain inet guard pass { type filter hook forward priority 0; policy accept; }");
    assert_eq!((firewall()["status"].as_str(), firewall()["found"].as_str()), (Some("ok"), Some(NOTHING)));
    nft("add chain inet guard through { type filter hook forward priority 5; policy drop; }");
    let check = firewall();
    assert_eq!(check["status"], "warn");
    assert!(check["found"].as_str().unwrap().ends_with(": inet guard through"), "{check}");
    nft("delete chain inet guard through");
    for (command, named) in [("iptables-legacy", "iptables"), ("ip6tables-legacy", "ip6tables")] {
        assert!(!firewall()["found"].to_string().contains(&format!("perhaps {named}-legacy")));
        let set = program::output_of(bare.host.command(command).args(["--policy", "FORWARD", "DROP"]));
        if !set.status.success() {
            eprintln!("skipped {command}: {}", program::text(&set.stderr).trim());
            continue;
        }
        assert!(firewall()["found"].to_string().contains(&format!("perhaps {named}-legacy FORWARD")), "{}", firewall());
    }
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

fn capabilities_that_others_imply_are_not_asked_for(_: Plane) {
    let bare = Bare::new();
    let privileges = |dropped: &str| {
        let mut command = bare.host.command("setpriv");
        command.arg(format!("--bounding-set={dropped}")).arg(program::netpath_binary()).args(["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&program::output_of(&mut command).stdout).unwrap();
        check(&report, "privileges")
    };
    assert_eq!(privileges("-perfmon,-bpf")["status"], "ok");
    let without = privileges("-net_admin");
    assert_eq!(
        (without["status"].as_str(), without["found"].as_str()),
        (Some("fail"), Some("root without CAP_NET_ADMIN"))
    );
}

/// What `netpath doctor --json` says on a host where nothing fails.
fn doctor(host: &Namespace) -> Value {
    let stdout = program::stdout_of(host.command(program::netpath_binary()).args(["doctor", "--json"]));
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("json expected: {e}: {stdout}"))
}

fn check(report: &Value, name: &str) -> Value {
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {report}")).clone()
}

fn interface(report: &Value, ifname: &str) -> Value {
    let interfaces = report["interfaces"].as_array().unwrap();
    let found = interfaces.iter().find(|interface| interface["ifname"] == ifname);
    found.unwrap_or_else(|| panic!("no {ifname}: {report}")).clone()
}
