//! Panics as errors: the helpers of the tests panic with what was tried on what, and measuring goes on without it.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics say nothing by themselves from here on: their message is the error of [`attempt`].
pub fn take_over_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        let message = format!("{}{place}", info.payload_as_str().unwrap_or("panic"));
        // The first panic is the cause; what unwinds may panic again.
        MESSAGE.with_borrow_mut(|first| _ = first.get_or_insert(message));
    }));
}

/// Does `work`; when it panics, the error is what it said. A panic of another thread that `work` waits for is told by the
/// thread that waits.
///
/// # Errors
///
/// The message of the panic.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    MESSAGE.take();
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        MESSAGE.take().or(text).unwrap_or_else(|| "panic".to_owned())
    })
}

/// The first line of `message`, cut to what fits beside a name.
pub fn in_short(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    if line.chars().count() > 160 {
        format!("{}...", line.chars().take(157).collect::<String>())
    } else {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(attempt(|| 7), Ok(7));
        let error = attempt(|| panic!("no answer from {}", "somebody")).expect_err("a panic");
        assert!(error.starts_with("no answer from somebody"), "{error}");
    }

    #[test]
    fn long_messages_are_cut() {
        assert_eq!(in_short("one\ntwo"), "one");
        assert_eq!(in_short(&"x".repeat(500)).len(), 160);
    }
}
