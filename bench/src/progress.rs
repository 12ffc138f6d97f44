//! A progress bar on a terminal; elsewhere a line for each kind of work. All on standard error.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress {
    bar: Option<ProgressBar>,
    said: RefCell<String>,
}

impl Progress {
    /// Of `steps` in all.
    pub fn new(steps: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{elapsed_precise} [{bar:40}] {pos}/{len}, {eta} left  {msg}");
            let bar = ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, said: RefCell::default() }
    }

    /// What is being done.
    pub fn says(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => {
                // Without a terminal the contestants of one kind of work are one line.
                let subject = what.split(": ").next().unwrap_or(what).split(", ").next().unwrap_or(what);
                if *self.said.borrow() != subject {
                    eprintln!("{subject}");
                    *self.said.borrow_mut() = subject.to_owned();
                }
            }
        }
    }

    /// Something that stays to be read.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    pub fn step(&self) {
        self.bar.iter().for_each(|bar| bar.inc(1));
    }

    pub fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
