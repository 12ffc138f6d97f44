//! A list of checks, a line each: `ok` or `FAIL`, what was looked at, what was measured.

use std::panic;

use crate::attempt::{attempt, take_over_panics};

/// Counts checks and prints their lines.
#[derive(Debug, Default)]
pub struct Checks {
    passed: u32,
    failed: u32,
}

impl Checks {
    /// Takes over the panic hook: a check that panics fails with the panic's message.
    pub fn new() -> Self {
        take_over_panics();
        Self::default()
    }

    /// Runs one check, which returns what it measured or panics; says whether it passed.
    pub fn run(&mut self, what: &str, check: impl FnOnce() -> String) -> bool {
        self.value(what, || (check(), ())).is_some()
    }

    /// As [`Checks::run`], for a check that makes something.
    pub fn value<T>(&mut self, what: &str, check: impl FnOnce() -> (String, T)) -> Option<T> {
        match attempt(check) {
            Ok((measured, value)) => {
                self.passed += 1;
                println!("ok    {what:<60} {measured}");
                Some(value)
            }
            Err(message) => {
                self.failed += 1;
                println!("FAIL  {what:<60} {message}");
                None
            }
        }
    }

    /// Prints the last line; says whether all passed.
    pub fn conclude(self, name: &str) -> bool {
        let _ = panic::take_hook();
        println!("{name}: {} of {} checks passed", self.passed, self.passed + self.failed);
        self.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_panics_is_counted_and_the_next_one_runs() {
        let mut checks = Checks::new();
        assert!(checks.run("fine", || "1 ms".to_owned()));
        assert!(!checks.run("not fine", || panic!("no answer")));
        assert_eq!(checks.value("fine again", || (String::new(), 7)), Some(7));
        assert_eq!((checks.passed, checks.failed), (2, 1));
        assert!(!checks.conclude("test"));
    }
}
