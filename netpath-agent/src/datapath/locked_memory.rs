//! Locked memory, which maps and programs count as before Linux 5.11. Since then they are charged to the memory cgroup.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::probes;

/// Lifts this process's limit of locked memory, if the kernel goes by it. Maps for which there is no room then are refused
/// by the kernel (`EPERM`).
pub(super) fn lift_limit() {
    if matches!(probes::limits_locked_memory(), Ok(true)) {
        lift();
    }
}

/// To none, and without CAP_SYS_RESOURCE as high as this process may.
fn lift() {
    const MEMORY: Resource = Resource::RLIMIT_MEMLOCK;
    let lifted = setrlimit(MEMORY, RLIM_INFINITY, RLIM_INFINITY).or_else(|_| {
        let (_, hard) = getrlimit(MEMORY)?;
        setrlimit(MEMORY, hard, hard)
    });
    if let Err(error) = lifted {
        tracing::warn!("lift the limit of locked memory: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_locked_memory_goes_where_it_may() {
        let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        setrlimit(Resource::RLIMIT_MEMLOCK, hard.min(65_536), hard).unwrap();
        lift();
        let lifted = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        assert!(lifted == (RLIM_INFINITY, RLIM_INFINITY) || lifted == (hard, hard), "{lifted:?} from {hard}");
    }
}
