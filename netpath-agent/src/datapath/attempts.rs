//! Having the kernel verify a program, undisturbed by signals: BPF_PROG_LOAD breaks off with EAGAIN where one is pending
//! (Linux 5.0, c3494801cd17).

use aya::programs::ProgramError;
use aya::sys::SyscallError;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

/// As often as libbpf tries (`PROG_LOAD_ATTEMPTS`).
const ATTEMPTS: usize = 5;

/// Has the kernel verify a program while signals wait, and once more whenever it broke off all the same: a debugger and
/// the freezer of cgroups ask nobody. aya repeats whatever fails once, with the verifier's log, which takes longer by far,
/// and leaves it at that.
///
/// # Errors
///
/// The kernel's, or EAGAIN if it broke off each time.
pub(super) fn verify<T>(attempt: impl FnMut() -> Result<T, ProgramError>) -> Result<T, ProgramError> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let verified = repeat(attempt);
    if let Ok(before) = before {
        // It was in force before, so it is a valid one.
        let _ = before.thread_set_mask();
    }
    verified
}

fn repeat<T>(mut attempt: impl FnMut() -> Result<T, ProgramError>) -> Result<T, ProgramError> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if was_interrupted(&error) => {}
            done => return done,
        }
    }
    attempt()
}

fn was_interrupted(error: &ProgramError) -> bool {
    let (ProgramError::LoadError { io_error, .. } | ProgramError::SyscallError(SyscallError { io_error, .. })) = error
    else {
        return false;
    };
    io_error.raw_os_error() == Some(Errno::EAGAIN as i32)
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::sys::signal::Signal;

    use super::*;

    fn refused(errno: Errno) -> ProgramError {
        ProgramError::SyscallError(SyscallError { call: "bpf_prog_load", io_error: io::Error::from(errno) })
    }

    #[test]
    fn signals_wait_for_the_verifier_and_no_longer() {
        let mask = || SigSet::thread_get_mask().unwrap();
        let before = mask();
        let meanwhile = verify(|| Ok(mask())).unwrap();
        assert!(!before.contains(Signal::SIGTERM) && meanwhile.contains(Signal::SIGTERM));
        assert_eq!(mask(), before);
    }

    #[test]
    fn an_interrupted_verification_is_begun_anew() {
        let mut attempts = 0;
        let verified = repeat(|| {
            attempts += 1;
            if attempts < ATTEMPTS { Err(refused(Errno::EAGAIN)) } else { Ok(attempts) }
        });
        assert_eq!(verified.unwrap(), ATTEMPTS);
    }

    #[test]
    fn a_refusal_is_final() {
        let mut attempts = 0;
        let verified: Result<(), _> = repeat(|| {
            attempts += 1;
            Err(refused(Errno::EINVAL))
        });
        assert!(!was_interrupted(&verified.unwrap_err()));
        assert_eq!(attempts, 1);
    }

    #[test]
    fn who_is_always_interrupted_gives_up() {
        let mut attempts = 0;
        let verified: Result<(), _> = repeat(|| {
            attempts += 1;
            Err(refused(Errno::EAGAIN))
        });
        assert!(was_interrupted(&verified.unwrap_err()));
        assert_eq!(attempts, ATTEMPTS);
    }
}
