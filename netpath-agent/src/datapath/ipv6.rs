//! IPv6's programs, loaded when the first network has IPv6: the verifier needs longer for them than for all others.

use anyhow::Result;

use super::{Datapath, PROGRAMS, jumps, load_program, program};

/// Whether a program is there for IPv6 alone.
pub(super) fn is_its(name: &str) -> bool {
    name.ends_with('6')
}

impl Datapath {
    /// Whether IPv6's programs are in the kernel.
    pub fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// Loads IPv6's programs, unless they are there. From then on those that attach a program to an interface attach
    /// IPv6's too.
    ///
    /// # Errors
    ///
    /// If the kernel refuses one; those before it stay loaded, and are not used.
    pub fn load_ipv6(&mut self) -> Result<()> {
        if self.has_ipv6 {
            return Ok(());
        }
        for name in PROGRAMS.iter().filter(|name| is_its(name)) {
            let program = program(&mut self.ebpf, name)?;
            if program.fd().is_err() {
                load_program(program, name)?;
            }
        }
        jumps::fill(&mut self.jumps, &mut self.ebpf, is_its)?;
        self.has_ipv6 = true;
        Ok(())
    }
}
