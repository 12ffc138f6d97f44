//! Locked memory, which maps and programs count as before Linux 5.11. Since then they are charged to the memory cgroup.

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::probes;

/// Lifts this process's limit of locked memory, if the kernel goes by it. Maps for which there is no room then are refused
/// by the kernel (`EPERM`).
pub(super) fn lift_limit() {
    if matches!(probes::limits_locked_memory(), Ok(true)) {
        lift();
    }
}

fn lift() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::warn!("lift the limit of locked memory: {error}");
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::getrlimit;

    use super::*;

    #[test]
    fn the_limit_of_locked_memory_goes_where_it_may() {
        let before = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        lift();
        let wanted = if nix::unistd::geteuid().is_root() { (RLIM_INFINITY, RLIM_INFINITY) } else { before };
        assert_eq!(getrlimit(Resource::RLIMIT_MEMLOCK).unwrap(), wanted);
    }
}
