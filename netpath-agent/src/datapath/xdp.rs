//! XDP on external interfaces. Loaded when somebody asks for it: verifying takes time.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};

use super::{Datapath, TestRun};

/// Name of the program.
pub(super) const XDP: &str = "xdp_from_external";

impl Datapath {
    /// Loads the program, if it is not loaded yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn load_xdp(&mut self) -> Result<()> {
        if self.has_xdp() {
            return Ok(());
        }
        program(&mut self.ebpf)?.load().with_context(|| format!("load `{XDP}` into the kernel"))
    }

    /// Whether the program is loaded.
    pub fn has_xdp(&self) -> bool {
        self.ebpf.program(XDP).is_some_and(|program| program.fd().is_ok())
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

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(XDP).with_context(|| format!("no program `{XDP}` in the eBPF object"))?;
    program.try_into().with_context(|| format!("`{XDP}` is no XDP program"))
}
