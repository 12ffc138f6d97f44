//! The host as /proc and /sys show it: settings, identifiers, the BPF file system. No netlink, no maps.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use netpath_common::PortRange;
use nix::errno::Errno;
use nix::libc;
use nix::mount::MsFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::utsname::uname;
use sha2::{Digest, Sha256};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
pub(crate) const BPF_FS: &str = "/sys/fs/bpf";

/// # Errors
/// If the caller is not root.
pub fn require_root() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the agent needs root: it creates interfaces and loads BPF programs");
    Ok(())
}

/// Why the data plane takes no such kernel, and what to do.
pub(crate) const NO_REALTIME: &str = "programs interrupt each other there; boot a kernel without PREEMPT_RT";

/// # Errors
/// If the kernel is built with PREEMPT_RT.
pub fn require_no_realtime() -> Result<()> {
    let name = uname().context("ask for the kernel's version")?;
    let version = name.version().to_string_lossy();
    ensure!(!is_realtime(&version), "the kernel is built with PREEMPT_RT (`{version}`): {NO_REALTIME}");
    Ok(())
}

/// Whether a kernel of this `version`, as `uname -v` shows it, is built with PREEMPT_RT.
pub(crate) fn is_realtime(version: &str) -> bool {
    version.split_ascii_whitespace().any(|word| word == "PREEMPT_RT")
}

/// Lets this process open as many files as it may: the agent watches each container's process through one.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_file_limit() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of open files")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")?;
    }
    Ok(())
}

/// Lets this process open `count` files, past its hard limit where it may raise that; how many it may open.
///
/// # Errors
/// If the kernel does not tell the limit.
pub fn raise_file_limit_to(count: u64) -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of open files")?;
    if soft >= count || setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count)).is_err() {
        return Ok(soft);
    }
    Ok(count)
}

/// Identifies the time since the last boot.
///
/// # Errors
/// If /proc is not mounted.
pub fn boot_id() -> Result<String> {
    read("/proc/sys/kernel/random/boot_id")
}

/// Identifies the calling thread's network namespace until the next boot; 0 where the kernel does not tell
/// (before Linux 5.14).
///
/// # Errors
/// If there is no socket to be had.
pub fn netns_cookie() -> Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("open a socket to ask for the network namespace's cookie")?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to live values of the sizes that `len` says.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    Ok(if result == 0 { cookie } else { 0 })
}

/// Where the cgroup hierarchy of version 2 is mounted, preferably its root.
///
/// # Errors
/// If it is not mounted, or /proc is not.
pub fn cgroup_root() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    parse_cgroup_root(&text).context("no file system of type cgroup2 is mounted")
}

/// `N` bytes from the kernel's random number generator.
///
/// # Errors
/// If /dev/urandom cannot be read.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("read /dev/urandom")?;
    Ok(bytes)
}

/// A random hardware address: locally administered, not multicast.
///
/// # Errors
/// If /dev/urandom cannot be read.
pub fn random_mac() -> Result<[u8; 6]> {
    let mut mac: [u8; 6] = random()?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}

/// # Errors
/// If /proc is not mounted.
pub fn ip_forward() -> Result<bool> {
    Ok(read(IP_FORWARD)? != "0")
}

/// # Errors
/// If /proc/sys is read-only.
pub fn enable_ip_forward() -> Result<()> {
    fs::write(IP_FORWARD, "1").with_context(|| {
        format!("write 1 to {IP_FORWARD} (set net.ipv4.ip_forward=1 yourself and start with --ip-forward=false)")
    })
}

/// Turns IPv6 off on an interface of the calling thread's network namespace, as Docker does on networks
/// without it: what the container said in it would only be dropped.
///
/// # Errors
/// If /proc/sys is read-only.
pub fn disable_ipv6(ifname: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6");
    match fs::write(&path, "1") {
        // The kernel has no IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("write 1 to {path}")),
    }
}

/// Switches IPv6 on for an interface of the calling thread's namespace, without routers' advertisements and
/// without duplicate address detection.
///
/// # Errors
/// If the kernel has no IPv6, or /proc/sys is read-only.
pub fn enable_ipv6(ifname: &str) -> Result<()> {
    // Nobody else can have its addresses, and a router that is still checking its own answers nobody for seconds.
    for (name, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("disable_ipv6", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{name}");
        fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
    }
    Ok(())
}

/// # Errors
/// If the kernel has no IPv6, or it is switched off for new interfaces.
pub fn require_ipv6() -> Result<()> {
    for name in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        let is_off = fs::read_to_string(&path).map_or(true, |text| text.trim() != "0");
        ensure!(!is_off, "IPv6 is switched off in the kernel (net.ipv6.conf.{name}.disable_ipv6)");
    }
    Ok(())
}

/// Lets the host forward IPv6 packets; `false` if it did already.
///
/// # Errors
/// If /proc/sys is read-only.
pub fn enable_ipv6_forward() -> Result<bool> {
    const PATH: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    if read(PATH)? != "0" {
        return Ok(false);
    }
    fs::write(PATH, "1").with_context(|| format!("write 1 to {PATH}"))?;
    Ok(true)
}

/// Five bytes that are always the same on this host, and say nothing about it.
///
/// # Errors
/// If the host has no identity and no random numbers either.
pub fn site_id() -> Result<[u8; 5]> {
    let Ok(machine) = read("/etc/machine-id") else { return random() };
    let digest = Sha256::digest(format!("netpath site {machine}"));
    let mut id = [0; 5];
    id.copy_from_slice(&digest[..5]);
    Ok(id)
}

/// Ports that the kernel gives to sockets that ask for none.
///
/// # Errors
/// If /proc is not mounted or holds something else than two ports.
pub fn ephemeral_ports() -> Result<PortRange> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = read(PATH)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => Ok(PortRange { first, last }),
        _ => bail!("{PATH} holds `{text}`, want two ports"),
    }
}

/// Ports that are never given out automatically.
///
/// # Errors
/// If /proc is not mounted.
pub fn reserved_ports() -> Result<Vec<PortRange>> {
    Ok(parse_reserved(&read("/proc/sys/net/ipv4/ip_local_reserved_ports")?))
}

/// The host's name servers; none if there is no resolv.conf.
pub fn nameservers() -> Vec<IpAddr> {
    parse_nameservers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// Makes sure that `pin_dir` lies on a BPF file system, mounting the usual one if it is missing.
///
/// # Errors
/// If there is none and it cannot be mounted.
pub fn require_bpf_fs(pin_dir: &Path) -> Result<()> {
    if is_on_bpf_fs(pin_dir)? {
        return Ok(());
    }
    ensure!(
        pin_dir.starts_with(BPF_FS),
        "--pin-dir {} is on no BPF file system; mount one there: mount -t bpf bpf DIR",
        pin_dir.display()
    );
    match nix::mount::mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), None::<&str>) {
        Ok(()) => {
            tracing::info!("mounted the BPF file system on {BPF_FS}");
            Ok(())
        }
        Err(Errno::ENODEV) => bail!("this kernel has no BPF file system; it needs CONFIG_BPF_SYSCALL"),
        Err(error) => {
            Err(error).with_context(|| format!("mount the BPF file system; do it yourself: mount -t bpf bpf {BPF_FS}"))
        }
    }
}

/// # Errors
/// If the path cannot be looked up.
pub(crate) fn is_on_bpf_fs(path: &Path) -> Result<bool> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = statfs(existing).with_context(|| format!("look up the file system of {}", existing.display()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn parse_reserved(text: &str) -> Vec<PortRange> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(PortRange { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
    };
    text.split(',').filter_map(range).collect()
}

/// See proc_pid_mountinfo(5): the fourth field is what is mounted, the fifth where.
fn parse_cgroup_root(text: &str) -> Option<PathBuf> {
    let mount = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?.to_owned(), fields.next()?.replace("\\040", " "));
        source.starts_with("cgroup2 ").then(|| (root != "/", PathBuf::from(point)))
    };
    text.lines().filter_map(mount).min_by_key(|(is_part, _)| *is_part).map(|(_, point)| point)
}

fn parse_nameservers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(server).collect()
}

fn read(path: &str) -> Result<String> {
    Ok(fs::read_to_string(path).with_context(|| format!("read {path}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_preempt_rt_is_told_by_its_version() {
        for (version, want) in [
            ("#1 SMP PREEMPT_RT Debian 6.12.43-1", true),
            ("#1 SMP PREEMPT_RT", true),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.12.43-1", false),
            ("#1 SMP", false),
        ] {
            assert_eq!(is_realtime(version), want, "{version}");
        }
        require_no_realtime().expect("the data plane's other tests do not run on such a kernel either");
    }

    #[test]
    fn reserved_ports_are_ports_and_ranges() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(parse_reserved("8080,9148-9150"), [range(8080, 8080), range(9148, 9150)]);
        assert_eq!(parse_reserved(""), []);
    }

    #[test]
    fn name_servers_are_those_of_both_families_and_no_comments() {
        let text = "# nameserver 1.1.1.1\nnameserver 9.9.9.9\nnameserver ::1\n  nameserver\t8.8.8.8\nsearch x\n";
        assert_eq!(parse_nameservers(text), ["9.9.9.9", "::1", "8.8.8.8"].map(|addr| addr.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn the_root_of_the_cgroups_is_found_among_all_mounts() {
        let text = "38 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    39 31 0:38 /../.. /mnt/part rw,relatime shared:5 - cgroup2 cgroup2 rw\n\
                    40 31 0:38 / /mnt/c\\040group rw,relatime shared:6 master:1 - cgroup2 none rw\n";
        assert_eq!(parse_cgroup_root(text), Some(PathBuf::from("/mnt/c group")));
        assert_eq!(parse_cgroup_root(text.split_inclusive('\n').next().unwrap()), None);
    }

    #[test]
    fn all_files_that_may_be_opened_can_be() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(256), hard).unwrap();
        raise_file_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }

    #[test]
    fn random_hardware_addresses_are_local_and_unicast() {
        for _ in 0..32 {
            assert_eq!(random_mac().unwrap()[0] & 3, 2);
        }
    }
}
