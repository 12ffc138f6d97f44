//! What the kernel has: its version, BPF, and the kinds of interfaces that networks are made of.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use nix::sys::utsname::uname;

use super::{Check, fail, ok, unknown, warn};
use crate::datapath::probes;
use crate::ethtool::Ethtool;
use crate::host;
use crate::netlink::{Netlink, Veth};

/// What the host has without programs on the root cgroup.
const WITHOUT_HOOKS: &str = "the host itself reaches no published port, and a socket keeps each while the agent runs";
/// The first kernel with `bpf_redirect_peer`, `bpf_redirect_neigh`, and tail calls from programs with functions.
const OLDEST: (u32, u32) = (5, 10);

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    match uname() {
        Ok(name) => {
            checks.push(release(&name.release().to_string_lossy()));
            checks.push(preemption(&name.version().to_string_lossy()));
        }
        Err(error) => checks.push(unknown("kernel", &error.into())),
    }
    checks.extend([privileges(), type_information(), tcx(), hooks(), cookie(), clock(), compiler(), xdp()]);
    checks
}

fn release(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => ok("kernel", format!("Linux {release}")),
        _ => fail(
            "kernel",
            format!("Linux {release}"),
            format!("netpath needs Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
    }
}

fn preemption(version: &str) -> Check {
    match host::is_realtime(version) {
        true => fail("preemption", "PREEMPT_RT", format!("{}; the agent does not start", host::NO_REALTIME)),
        false => ok("preemption", "not PREEMPT_RT"),
    }
}

/// The capabilities that the agent uses, with their numbers (linux/capability.h). CAP_SYS_ADMIN implies CAP_PERFMON and
/// CAP_BPF.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

fn privileges() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    let missing = CAPABILITIES.iter().filter(|(number, _)| effective & 1 << number == 0).map(|(_, name)| *name);
    let missing: Vec<_> = missing.collect();
    if !nix::unistd::geteuid().is_root() {
        return fail("privileges", "not root", "the agent needs root, and so do some of these checks");
    }
    if missing.is_empty() {
        return ok("privileges", "root");
    }
    fail("privileges", format!("root without {}", missing.join(", ")), "start the agent where root has them")
}

fn type_information() -> Check {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return ok("btf", "/sys/kernel/btf/vmlinux");
    }
    fail("btf", "no /sys/kernel/btf/vmlinux", "the kernel must be built with CONFIG_DEBUG_INFO_BTF")
}

fn tcx() -> Check {
    match probes::tcx() {
        Ok(true) => ok("tcx", "programs are attached by links"),
        Ok(false) => warn(
            "tcx",
            "no tcx links",
            "programs are filters of clsact qdiscs; if somebody removes one, the agent puts it back; Linux 6.6 has links",
        ),
        Err(error) => unknown("tcx", &error),
    }
}

fn hooks() -> Check {
    const NAME: &str = "socket hooks";
    let root = match host::cgroup_root() {
        Ok(root) => root,
        Err(error) => return warn(NAME, format!("{error:#}"), format!("{WITHOUT_HOOKS}; mount cgroup2")),
    };
    match probes::socket_hooks() {
        Ok(probes::SocketHooks { programs: false, .. }) => warn(
            NAME,
            "no programs on socket addresses",
            format!("{WITHOUT_HOOKS}; the kernel needs CONFIG_CGROUP_BPF"),
        ),
        Ok(probes::SocketHooks { errno: false, .. }) => {
            warn(NAME, "programs cannot choose errors", "who binds a published port gets EPERM (Linux 5.18)")
        }
        Ok(_) => ok(NAME, format!("on {}", root.display())),
        Err(error) => unknown(NAME, &error),
    }
}

fn cookie() -> Check {
    match host::netns_cookie() {
        Ok(0) => warn("namespace cookies", "none", format!("{WITHOUT_HOOKS} (Linux 5.14)")),
        Ok(_) => ok("namespace cookies", "there"),
        Err(error) => unknown("namespace cookies", &error),
    }
}

fn clock() -> Check {
    match probes::coarse_clock() {
        Ok(true) => ok("clock", "coarse"),
        Ok(false) => warn("clock", "no coarse one", "a masqueraded packet waits for the exact one (Linux 5.11)"),
        Err(error) => unknown("clock", &error),
    }
}

fn compiler() -> Check {
    let path = "/proc/sys/net/core/bpf_jit_enable";
    match fs::read_to_string(path).with_context(|| format!("read {path}")) {
        Ok(text) if text.trim() == "0" => warn(
            "bpf compiler",
            "off",
            "programs are interpreted, and many times slower: sysctl net.core.bpf_jit_enable=1",
        ),
        Ok(_) => ok("bpf compiler", "on"),
        Err(error) => unknown("bpf compiler", &error),
    }
}

fn xdp() -> Check {
    match (probes::xdp(), probes::xdp_pieces()) {
        (Ok(true), Ok(true)) => ok("xdp", "programs are taken; which interface gains by it is below"),
        (Ok(true), Ok(false)) => warn(
            "xdp",
            "programs are taken, but for frames in one piece",
            "drivers have no XDP while the MTU is larger than one buffer (Linux 5.18)",
        ),
        (Ok(false), _) => {
            warn("xdp", "no XDP programs", "--xdp does nothing; the kernel needs CONFIG_NET and CONFIG_BPF_SYSCALL")
        }
        (Err(error), _) | (_, Err(error)) => unknown("xdp", &error),
    }
}

/// Whether the kernel makes bridges and veth pairs.
pub(super) async fn interface_kinds() -> Vec<Check> {
    let tried = async {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // The namespace goes with the thread.
        thread::Builder::new().name("doctor".to_owned()).spawn(move || sender.send(try_kinds()))?;
        receiver.await.context("the thread that tries it panicked")?
    };
    match tried.await {
        Ok(Made { bridge, veth }) => vec![
            match bridge {
                Ok(()) => ok("bridge", "can be made"),
                Err(error) => fail("bridge", format!("{error:#}"), "the kernel needs CONFIG_BRIDGE (modprobe bridge)"),
            },
            match veth {
                Ok(true) => ok("veth", "can be made"),
                Ok(false) => warn(
                    "veth",
                    "drops redirected frames",
                    "what XDP could hand to a container goes by tc (Linux 5.13)",
                ),
                Err(error) => fail("veth", format!("{error:#}"), "the kernel needs CONFIG_VETH (modprobe veth)"),
            },
        ],
        Err(error) => ["bridge", "veth"].map(|kind| unknown(kind, &error)).into(),
    }
}

/// What came of making interfaces.
struct Made {
    bridge: Result<()>,
    /// Whether it takes frames that XDP redirects.
    veth: Result<bool>,
}

/// Tries to make a bridge and a veth pair where nobody sees them.
fn try_kinds() -> Result<Made> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace to try things in")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let own = fs::File::open("/proc/thread-self/ns/net").context("open the namespace")?;
        let veth = Veth {
            ifname: "doctor1",
            mtu: 1500,
            mac: [2, 0, 0, 0, 0, 1],
            group: 0,
            peer_ifname: "doctor2",
            peer_mac: [2, 0, 0, 0, 0, 2],
            peer_netns: own.as_fd(),
        };
        let bridge = netlink.create_bridge("doctor0", [2, 0, 0, 0, 0, 0], 0).await;
        let made = netlink.create_veth(&veth).await;
        Ok(Made { bridge, veth: made.and_then(|()| Ethtool::open()?.has_napi_by_gro(veth.ifname)) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_kernel_before_5_10_fails() {
        for (text, want) in [
            ("6.18.44-fc-v595", Status::Ok),
            ("5.10.0-32-cloud-amd64", Status::Ok),
            ("7.0-rc1", Status::Ok),
            ("10.2", Status::Ok),
            ("5.9.99", Status::Fail),
            ("4.19.0-27-amd64", Status::Fail),
            ("", Status::Fail),
        ] {
            assert_eq!(release(text).status, want, "{text}");
        }
    }

    #[test]
    fn a_realtime_kernel_fails() {
        assert_eq!(preemption("#1 SMP PREEMPT_RT Debian 6.12").status, Status::Fail);
        assert_eq!(preemption("#1 SMP PREEMPT_DYNAMIC Debian 6.12").status, Status::Ok);
    }
}
