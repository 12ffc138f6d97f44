//! XDP on external interfaces. Loaded when somebody asks for it: verifying takes time.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};

use super::attempts::verify;
use super::{Datapath, TestRun};
use crate::xdp::Mode;

/// Name of the program for drivers.
pub(super) const XDP: &str = "xdp_from_external";
/// The same for the kernel's stack: see there.
const GENERIC: &str = "xdp_from_external_generic";

/// Name of the program for a mode.
pub(super) fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => XDP,
        Mode::Generic => GENERIC,
    }
}

impl Datapath {
    /// Loads the program for a mode, if it is not loaded yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn load_xdp(&mut self, mode: Mode) -> Result<()> {
        if self.has_xdp(mode) {
            return Ok(());
        }
        let program = program(&mut self.ebpf, mode)?;
        verify(|| program.load()).with_context(|| format!("load `{}` into the kernel", name(mode)))
    }

    /// Whether the program for a mode is loaded.
    pub fn has_xdp(&self, mode: Mode) -> bool {
        self.ebpf.program(name(mode)).is_some_and(|program| program.fd().is_ok())
    }

    /// As [`Self::test_run`] with the program for XDP. Verdict 1: dropped, 2: the kernel's and tc's turn, 4: redirected.
    ///
    /// # Errors
    ///
    /// As in [`Self::test_run`], or if the program is not loaded.
    pub fn test_run_xdp(&self, frame: &[u8], repeat: u32) -> Result<TestRun> {
        let program = self.ebpf.program(XDP).with_context(|| format!("no program `{XDP}` in the eBPF object"))?;
        let program: &Xdp = program.try_into().with_context(|| format!("`{XDP}` is no XDP program"))?;
        let mut out = vec![0; frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..TestRunOptions::default() };
        let result = program.test_run(options).with_context(|| format!("run `{XDP}` on {} bytes", frame.len()))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { verdict: result.return_value.cast_signed(), frame: out, duration: result.duration })
    }
}

pub(super) fn program(ebpf: &mut Ebpf, mode: Mode) -> Result<&mut Xdp> {
    let name = name(mode);
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}` in the eBPF object"))?;
    program.try_into().with_context(|| format!("`{name}` is no XDP program"))
}
