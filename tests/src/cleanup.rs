//! Removing a world by its name, also one whose test was killed: everything a world makes carries its name, so nothing
//! has to be remembered in memory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::signals;

/// Makes a name for a world of this process, and its directory. From then on a signal that ends the process removes its
/// worlds first.
pub fn new_world() -> String {
    static STALE: Once = Once::new();
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    signals::clean_up_on_interrupt();
    STALE.call_once(remove_stale);
    let name = format!("np{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let dir = directory(&name);
    fs::create_dir(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
    name
}

/// The directory of the world called `name`.
pub fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// The directory of pins of the world called `name`.
pub fn pin_directory(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(name)
}

/// Notes that `pid` was started for the world called `name`, so that it ends with it.
pub fn remember_process(name: &str, pid: u32) {
    let path = directory(name).join("processes");
    let file = fs::OpenOptions::new().create(true).append(true).open(&path);
    let mut file = file.unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    writeln!(file, "{pid} {}", start_time(pid).unwrap_or_default()).expect("note a process");
}

/// Removes all that is left of the world called `name`; what is gone already is fine.
pub fn remove(name: &str) {
    end_remembered_processes(name);
    for namespace in names_in(Path::new("/run/netns")).filter(|n| n.starts_with(&format!("{name}-"))) {
        end_processes_of(&Path::new("/run/netns").join(&namespace));
        let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
    }
    end_processes_of_cgroup(name);
    remove_shim_sockets(&directory(name));
    unmount_below(&directory(name));
    let _ = fs::remove_dir_all(pin_directory(name));
    // What was killed a moment ago may still write.
    for _ in 0..50 {
        let _ = fs::remove_dir_all(directory(name));
        if remove_cgroup(name) && !directory(name).exists() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Kills what runs in the control groups below the one called `name`: containers of a Docker Engine.
fn end_processes_of_cgroup(name: &str) {
    let mut groups = cgroups(name);
    while let Some(group) = groups.pop() {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        groups.extend(names_in(&group).map(|inner| group.join(inner)).filter(|inner| inner.is_dir()));
    }
}

/// Removes the sockets of the shims that kept an Engine's containers: a shim that is killed leaves its own, always in
/// /run/containerd/s.
fn remove_shim_sockets(dir: &Path) {
    let tasks = dir.join("docker/containerd/state/io.containerd.runtime.v2.task/moby");
    for container in names_in(&tasks) {
        let address = fs::read_to_string(tasks.join(container).join("address")).unwrap_or_default();
        if let Some(path) = address.trim().strip_prefix("unix://") {
            let _ = fs::remove_file(path);
        }
    }
}

/// Takes away what is mounted below `dir`: namespaces and file systems of containers.
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split_whitespace().nth(4)).map(PathBuf::from);
    let inside: Vec<PathBuf> = places.filter(|place| place.starts_with(dir) && place != dir).collect();
    for place in inside.iter().rev() {
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
}

/// The control groups called `name`.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    // The first version has a hierarchy for each controller.
    let controllers = names_in(root).map(|controller| root.join(controller).join(name));
    controllers.chain([root.join(name)]).filter(|dir| dir.is_dir()).collect()
}

/// Removes the control groups below the one called `name`, and that one: of a Docker Engine that was started for a world.
/// Says whether they are gone.
pub fn remove_cgroup(name: &str) -> bool {
    let groups = cgroups(name);
    groups.iter().for_each(|dir| remove_cgroups(dir));
    groups.iter().all(|dir| !dir.exists())
}

fn remove_cgroups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    // The files inside are the kernel's and go with the directory.
    let _ = fs::remove_dir(dir);
}

/// Removes the worlds of this process: for a signal handler, where nothing is dropped.
pub fn remove_own() {
    let own = format!("np{}-", std::process::id());
    world_names().filter(|name| name.starts_with(&own)).for_each(|name| remove(&name));
}

/// Removes the worlds of processes that are gone.
pub fn remove_stale() {
    for name in world_names() {
        let pid = name.trim_start_matches("np").split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            remove(&name);
        }
    }
}

/// The worlds there are: each has a directory.
fn world_names() -> impl Iterator<Item = String> {
    names_in(&std::env::temp_dir()).filter(|name| {
        let numbers = name.strip_prefix("np").and_then(|rest| rest.split_once('-'));
        numbers.is_some_and(|(pid, number)| is_number(pid) && is_number(number))
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn names_in(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Ends what [`remember_process`] noted, and what lives in the same network namespaces. The start time tells the
/// process from a later one with its number.
fn end_remembered_processes(name: &str) {
    let noted = fs::read_to_string(directory(name).join("processes")).unwrap_or_default();
    for line in noted.lines() {
        let Some((pid, started)) = line.split_once(' ') else { continue };
        if pid.parse().ok().and_then(start_time).is_some_and(|time| time == started) {
            end_processes_of(&Path::new("/proc").join(pid).join("ns/net"));
        }
    }
}

/// Kills every process in the network namespace that `path` stands for, unless it is the one this process lives in.
fn end_processes_of(path: &Path) {
    let inode = |path: &Path| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
    let Some(wanted) = inode(path).filter(|wanted| Some(*wanted) != inode(Path::new("/proc/self/ns/net"))) else {
        return;
    };
    for pid in names_in(Path::new("/proc")).filter_map(|name| name.parse().ok()) {
        let lives_there = inode(&PathBuf::from(format!("/proc/{pid}/ns/net"))) == Some(wanted);
        if lives_there && pid != std::process::id() as i32 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Field 22 of /proc/PID/stat: clock ticks from boot to the start of the process.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
