//! Network namespaces: made, entered by a thread or by a program, and removed.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::program;

/// A network namespace. One that was made here is removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    /// The name `ip netns` knows, for those made here.
    made: Option<String>,
}

impl Namespace {
    /// Makes a namespace that `ip netns` knows as `name`, with lo up.
    pub fn new(name: &str) -> Self {
        program::ip(["netns", "add", name]);
        let namespace = Self { path: Path::new("/run/netns").join(name), made: Some(name.to_owned()) };
        namespace.ip("link set lo up");
        namespace
    }

    /// The namespace that process `pid` lives in.
    pub fn of_process(pid: u32) -> Self {
        Self { path: format!("/proc/{pid}/ns/net").into(), made: None }
    }

    /// The namespace that the file `path` stands for.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), made: None }
    }

    /// A file that stands for the namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay in the namespace for life, so they may be
    /// returned and used anywhere.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter_and_work = || {
            let file = File::open(&self.path).unwrap_or_else(|e| panic!("open {}: {e}", self.path.display()));
            setns(file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("enter {}: {e}", self.path.display()));
            work()
        };
        let result = thread::scope(|scope| scope.spawn(enter_and_work).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that runs in the namespace. `ip netns exec` would hide the BPF file system; nsenter does not.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg(program);
        command
    }

    /// `ip ARGS` inside; the arguments are split at blanks.
    pub fn ip(&self, args: &str) -> String {
        program::stdout_of(self.command("ip").args(args.split_whitespace()))
    }

    /// Writes a network sysctl, named as below /proc/sys.
    pub fn set_sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{name}");
        self.within(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("write {value} to {path}: {e}")));
    }

    /// A counter of /proc/net/snmp: `name` in the lines that begin with `group`.
    pub fn snmp(&self, group: &str, name: &str) -> u64 {
        let text = self.within(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("read the counters");
        let mut lines = text.lines().filter(|line| line.starts_with(group)).map(str::split_whitespace);
        let (names, values) = (lines.next().expect("a line of names"), lines.next().expect("a line of values"));
        let value = names.zip(values).find_map(|(one, value)| (one == name).then(|| value.parse()));
        value.unwrap_or_else(|| panic!("no counter {name} of {group}")).expect("a number")
    }

    /// Reads a network sysctl, named as below /proc/sys.
    pub fn sysctl(&self, name: &str) -> String {
        let path = format!("/proc/sys/{name}");
        self.within(|| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {path}: {e}"))).trim().to_owned()
    }

    /// The interfaces inside, lo excepted.
    pub fn interfaces(&self) -> Vec<String> {
        let links = self.ip("-o link show");
        let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
        names.filter(|name| *name != "lo").map(str::to_owned).collect()
    }

    /// The hardware address of the interface `ifname` inside.
    pub fn mac(&self, ifname: &str) -> [u8; 6] {
        let shown = self.ip(&format!("-o link show dev {ifname}"));
        let text = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let bytes = text.map(|text| text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect());
        let bytes: Vec<u8> = bytes.unwrap_or_default();
        bytes.try_into().unwrap_or_else(|_| panic!("{ifname} has no hardware address: {shown}"))
    }

    /// The number of the interface `ifname` inside.
    pub fn ifindex(&self, ifname: &str) -> u32 {
        let found = self.within(|| nix::net::if_::if_nametoindex(ifname));
        found.unwrap_or_else(|e| panic!("look for {ifname} in {}: {e}", self.path.display()))
    }

    /// The IPv6 address of the interface `ifname` inside that is good on its link only.
    pub fn link_local(&self, ifname: &str) -> Ipv6Addr {
        let listed = self.ip(&format!("-6 -o addr show dev {ifname} scope link"));
        let address = listed.split_whitespace().nth(3).and_then(|word| word.split('/').next()?.parse().ok());
        address.unwrap_or_else(|| panic!("{ifname} has no link-local address: {listed}"))
    }

    /// The addresses that are good beyond one link.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.ip("-o addr show scope global");
        // `2: eth0    inet 172.17.0.2/16 brd ...`
        let words = listed.lines().filter_map(|line| line.split_whitespace().nth(3));
        words.map(|word| word.split('/').next().unwrap_or(word).parse().expect("an address")).collect()
    }

    /// Removes the namespace at once, as a container that goes away does. Sockets inside keep it alive.
    pub fn remove(&self) {
        let name = self.made.as_ref().expect("a namespace that was made here");
        program::ip(["netns", "del", name]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(name) = self.made.take() {
            // Panicking here would hide the panic that is being unwound.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
