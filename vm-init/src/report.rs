//! What the machine's owner reads at the other end of the second serial port: `file NAME LENGTH` and that many bytes, any
//! number of times, then `status NUMBER`. A report without a status is of a machine that broke down.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};

const PORT: &str = "/dev/ttyS1";

pub(crate) struct Report {
    port: File,
}

impl Report {
    pub(crate) fn open() -> Result<Self> {
        let port = OpenOptions::new().read(true).write(true).open(PORT).with_context(|| format!("open {PORT}"))?;
        // Bytes go through as they are.
        let mut settings = tcgetattr(&port).with_context(|| format!("ask how {PORT} is set"))?;
        cfmakeraw(&mut settings);
        tcsetattr(&port, SetArg::TCSANOW, &settings).with_context(|| format!("set {PORT}"))?;
        Ok(Self { port })
    }

    /// Sends every file of `dir`, if there is one.
    pub(crate) fn files(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let bytes = fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
            let head = format!("file {} {}\n", entry.file_name().to_string_lossy(), bytes.len());
            self.send(head.as_bytes())?;
            self.send(&bytes)?;
        }
        Ok(())
    }

    pub(crate) fn status(&mut self, status: u8) -> Result<()> {
        self.send(format!("status {status}\n").as_bytes())?;
        tcdrain(&self.port).with_context(|| format!("wait until {PORT} has sent all"))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.port.write_all(bytes).with_context(|| format!("write to {PORT}"))
    }
}
