//! The guest's first file system: this machine's programs with their libraries, at the same paths, what the job brings, and
//! the kernel's modules. It is a copy; whatever the guest does to it is gone with the guest.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cpio::{Node, Tree};
use super::kernel::Kernel;
use super::tools::Tools;
use crate::process::{capture, find};

/// Packages whose files the guest has, where they are installed.
const PACKAGES: [&str; 31] = [
    "bash",
    "bpftool",
    "conntrack",
    "coreutils",
    "curl",
    "dash",
    "ethtool",
    "findutils",
    "grep",
    "hostname",
    "iperf3",
    "iproute2",
    "iptables",
    "iputils-ping",
    "libc-bin",
    "libc6",
    "libnginx-mod-http-echo",
    "mawk",
    "mount",
    "ncurses-base",
    "netbase",
    "nftables",
    "nginx",
    "nginx-common",
    "nginx-light",
    "procps",
    "sed",
    "tar",
    "tcpdump",
    "util-linux",
    "wrk",
];
/// Parts of packages that no program looks at.
const LEFT_OUT: [&str; 8] = [
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/locale",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/bash-completion",
    "/usr/lib/x86_64-linux-gnu/gconv",
    "/usr/share/bug",
];
/// Parts of a kernel's tree of modules that a host for containers may want.
const MODULES: [&str; 9] = [
    "kernel/net/",
    "kernel/drivers/net/",
    "kernel/drivers/virtio/",
    "kernel/lib/",
    "kernel/crypto/",
    "kernel/arch/",
    "kernel/fs/overlayfs/",
    "kernel/drivers/char/hw_random/",
    "kernel/drivers/ptp/",
];
/// Modules that are loaded before the job: tests ask netfilter what it holds, also where nobody has called for it.
const LOADED: &str = "nf_conntrack nf_conntrack_netlink veth bridge br_netfilter";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a guest is to do.
#[derive(Default)]
pub(super) struct Job {
    /// The command; without one the guest only comes up.
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Somebody sits before it.
    pub(super) terminal: bool,
    /// Programs and files of this machine, by the path they have there. Programs go without what only debuggers read.
    pub(super) programs: Vec<(PathBuf, PathBuf)>,
    pub(super) files: Vec<(PathBuf, Vec<u8>)>,
    pub(super) folders: Vec<PathBuf>,
}

/// Makes the image for `job` on `kernel` as the file `path`.
pub(super) fn write(path: &Path, init: &Path, job: &Job, kernel: &Kernel, tools: &Tools) -> Result<()> {
    let scratch = path.with_extension("stripped");
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let mut tree = Tree::default();
    if !job.argv.is_empty() {
        system(&mut tree)?;
        if let Some(modules) = &kernel.modules {
            add_modules(&mut tree, modules)?;
        }
        let busybox = Path::new("/usr/bin/busybox");
        tree.insert(busybox, Node::Copy(tools.busybox_path(), 0o755));
        // The kernel runs this for what it needs.
        let modprobe = if tree.has(Path::new("/sbin")) { "/usr/sbin/modprobe" } else { "/sbin/modprobe" };
        tree.insert(Path::new(modprobe), Node::Link(busybox.to_owned()));
    }
    let own = [(PathBuf::from("/init"), init.to_owned())];
    for (number, (to, from)) in own.iter().chain(&job.programs).enumerate() {
        tree.insert(to, Node::Copy(stripped(from, &scratch.join(number.to_string()))?, 0o755));
    }
    for (to, bytes) in &job.files {
        tree.insert(to, Node::Bytes(bytes.clone(), 0o644));
    }
    for folder in
        job.folders.iter().map(PathBuf::as_path).chain([Path::new("/root"), Path::new("/tmp"), Path::new("/vm/report")])
    {
        tree.insert(folder, Node::Folder);
    }
    orders(&mut tree, job);
    add_libraries(&mut tree)?;
    let written = File::create(path).map_err(anyhow::Error::from).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        tree.write(&mut out)?;
        Ok(out.flush()?)
    });
    let _ = fs::remove_dir_all(&scratch);
    written.with_context(|| format!("write the guest's image to {}", path.display()))
}

/// What the first process reads.
fn orders(tree: &mut Tree, job: &Job) {
    let words = |words: &mut dyn Iterator<Item = String>| words.flat_map(|word| (word + "\0").into_bytes()).collect();
    let usual = [("PATH", PATH), ("HOME", "/root"), ("TERM", "xterm"), ("LC_ALL", "C.UTF-8")];
    let env = usual.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut env = env.iter().chain(&job.env).map(|(name, value)| format!("{name}={value}"));
    tree.insert(Path::new("/vm/env"), Node::Bytes(words(&mut env), 0o644));
    tree.insert(Path::new("/vm/argv"), Node::Bytes(words(&mut job.argv.iter().cloned()), 0o644));
    let mut modules = LOADED.split(' ').map(str::to_owned);
    tree.insert(Path::new("/vm/modules"), Node::Bytes(words(&mut modules), 0o644));
    if job.terminal {
        tree.insert(Path::new("/vm/terminal"), Node::Bytes(Vec::new(), 0o644));
    }
    tree.insert(Path::new("/dev/console"), Node::Device(5, 1));
}

/// The programs of this machine, and the few files of a system that they look for.
fn system(tree: &mut Tree) -> Result<()> {
    let mut query = Command::new("dpkg-query");
    // Those that are not installed are complained about and left out.
    let output = query.arg("--listfiles").args(PACKAGES).output().context("run dpkg-query")?;
    for path in String::from_utf8_lossy(&output.stdout).lines().map(Path::new) {
        let is_left_out = LEFT_OUT.iter().any(|part| path.starts_with(part));
        // Folders come with what is in them. What a package lists may have been removed.
        if path.is_absolute() && !is_left_out && fs::metadata(path).is_ok_and(|data| data.is_file()) {
            tree.insert_own(path)?;
        }
    }
    alternatives(tree)?;
    for link in ["/bin", "/sbin", "/lib", "/lib64"].map(Path::new).into_iter().filter(|path| path.is_symlink()) {
        tree.insert_own(link)?;
    }
    let users = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n\
                 nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
    let files = [
        ("/etc/passwd", users),
        ("/etc/group", "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"),
        ("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
        ("/etc/resolv.conf", "nameserver 10.0.2.3\n"),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        ("/etc/hostname", "netpath-vm\n"),
    ];
    for (path, text) in files {
        tree.insert(Path::new(path), Node::Bytes(text.into(), 0o644));
    }
    // What nginx's package does when it is set up.
    let site = Path::new("/etc/nginx/sites-available/default");
    if tree.has(site) {
        tree.insert(Path::new("/etc/nginx/sites-enabled/default"), Node::Link(site.to_owned()));
        tree.insert(Path::new("/var/www/html/index.html"), Node::Bytes(b"Welcome to nginx!\n".into(), 0o644));
    }
    for folder in ["/var/log/nginx", "/var/lib/nginx", "/var/tmp", "/run", "/proc", "/sys", "/mnt", "/opt"] {
        tree.insert(Path::new(folder), Node::Folder);
    }
    Ok(())
}

/// Programs that are called by a link which no package owns (`iptables`).
fn alternatives(tree: &mut Tree) -> Result<()> {
    for dir in ["/usr/bin", "/usr/sbin"] {
        for link in fs::read_dir(dir).with_context(|| format!("list {dir}"))?.flatten().map(|entry| entry.path()) {
            let chosen = fs::read_link(&link).is_ok_and(|target| target.starts_with("/etc/alternatives"));
            if chosen && link.canonicalize().is_ok_and(|program| tree.has(&program)) {
                tree.insert_own(&link)?;
            }
        }
    }
    Ok(())
}

/// Puts the libraries of all programs in, as the dynamic linker of this machine finds them.
fn add_libraries(tree: &mut Tree) -> Result<()> {
    let programs: Vec<PathBuf> = tree.copies().filter(|path| is_elf(path)).map(Path::to_owned).collect();
    let ldd = find("ldd").context("there is no ldd here; it comes with libc-bin")?;
    // What is linked statically, or is a module of the kernel, has none, and ldd says so by its status.
    let output = Command::new(ldd).args(&programs).output().context("run ldd")?;
    for library in parse_ldd(&String::from_utf8_lossy(&output.stdout)) {
        tree.insert_own(&library)?;
    }
    Ok(())
}

/// Of lines `NAME => PATH (ADDRESS)` and `PATH (ADDRESS)`.
fn parse_ldd(text: &str) -> BTreeSet<PathBuf> {
    let library = |line: &str| {
        let line = line.trim().strip_suffix(')')?.rsplit_once(" (")?.0;
        let path = line.rsplit_once("=> ").map_or(line, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(library).collect()
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let is_module = path.extension().is_some_and(|extension| extension == "ko");
    !is_module && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

/// A copy of `program` without debug information, or the program itself where nothing takes it out.
fn stripped(program: &Path, copy: &Path) -> Result<PathBuf> {
    let Some(strip) = find("strip").filter(|_| is_elf(program)) else { return Ok(program.to_owned()) };
    capture(Command::new(strip).arg("--strip-debug").arg("-o").arg(copy).arg(program))?;
    Ok(copy.to_owned())
}

/// Puts the modules of [`MODULES`] in, with those they depend on, and all lists of modules.
fn add_modules(tree: &mut Tree, dir: &Path) -> Result<()> {
    let release = dir.file_name().context("the modules' folder has no name")?;
    let base = Path::new("/usr/lib/modules").join(release);
    let text = fs::read_to_string(dir.join("modules.dep")).context("read modules.dep")?;
    for module in chosen_modules(&text) {
        tree.insert(&base.join(module), Node::Copy(dir.join(module), 0o644));
    }
    let mut lists = Vec::new();
    for list in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten() {
        if list.file_name().to_string_lossy().starts_with("modules.") {
            lists.push(list.path());
        }
    }
    for list in lists {
        let name = list.file_name().context("a list has no name")?;
        tree.insert(&base.join(name), Node::Copy(list.clone(), 0o644));
    }
    Ok(())
}

/// Of lines `MODULE: DEPENDENCY...`, which name all dependencies and not only the next ones.
fn chosen_modules(list: &str) -> BTreeSet<&str> {
    let mut chosen = BTreeSet::new();
    for (module, needed) in list.lines().filter_map(|line| line.split_once(':')) {
        if MODULES.iter().any(|part| module.starts_with(part)) {
            chosen.insert(module);
            chosen.extend(needed.split_whitespace());
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_the_linker_says() {
        let text = "/usr/bin/ip:\n\tlinux-vdso.so.1 (0x00007ffd)\n\tlibbpf.so.1 => /lib/x86_64-linux-gnu/libbpf.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n\tnot a dynamic executable\n";
        let wanted = ["/lib/x86_64-linux-gnu/libbpf.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), wanted.into());
    }

    #[test]
    fn modules_come_with_what_they_depend_on() {
        let list = "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\nkernel/fs/xfs/xfs.ko: kernel/lib/crc.ko\n\
                    kernel/drivers/net/veth.ko:\n";
        let wanted = [
            "kernel/net/bridge/bridge.ko",
            "kernel/net/802/stp.ko",
            "kernel/net/llc/llc.ko",
            "kernel/drivers/net/veth.ko",
        ];
        assert_eq!(chosen_modules(list), wanted.into());
    }
}
