//! XDP on external interfaces. Loaded when somebody asks for it: verifying takes time.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};

use super::attempts::verify;
use super::{Datapath, Features, TestRun, probes};
use crate::xdp::Mode;

/// Name of the program for drivers.
pub(super) const XDP: &str = "xdp_from_external";
/// The same for the kernel's stack: see there.
const GENERIC: &str = "xdp_from_external_generic";

/// The program for each mode, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    native: &'static str,
}

impl Programs {
    /// Where the kernel takes none for frames in several pieces, drivers get the one that does not say it does.
    pub(super) fn of(features: Features) -> Self {
        // A kernel that does not say is asked again when it loads the program.
        let is_plain = features == Features::None || matches!(probes::xdp_pieces(), Ok(false));
        Self { native: if is_plain { GENERIC } else { XDP } }
    }

    pub(super) fn name(self, mode: Mode) -> &'static str {
        match mode {
            Mode::Native => self.native,
            Mode::Generic => GENERIC,
        }
    }

    /// Each once.
    pub(super) fn all(self) -> impl Iterator<Item = &'static str> {
        [XDP, GENERIC].into_iter().filter(move |name| [self.native, GENERIC].contains(name))
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
        let name = self.xdp.name(mode);
        let program = program(&mut self.ebpf, name)?;
        verify(|| program.load()).with_context(|| format!("load `{name}` into the kernel"))
    }

    /// Whether the program for a mode is loaded.
    pub fn has_xdp(&self, mode: Mode) -> bool {
        self.is_loaded(self.xdp.name(mode))
    }

    pub(super) fn is_loaded(&self, name: &str) -> bool {
        self.ebpf.program(name).is_some_and(|program| program.fd().is_ok())
    }

    /// As [`Self::test_run`] with the program for XDP. Verdict 1: dropped, 2: the kernel's and tc's turn, 4: redirected.
    ///
    /// # Errors
    ///
    /// As in [`Self::test_run`], or if the program is not loaded.
    pub fn test_run_xdp(&self, frame: &[u8], repeat: u32) -> Result<TestRun> {
        let name = self.xdp.name(Mode::Native);
        let program = self.ebpf.program(name).with_context(|| format!("no program `{name}` in the eBPF object"))?;
        let program: &Xdp = program.try_into().with_context(|| format!("`{name}` is no XDP program"))?;
        let mut out = vec![0; frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..TestRunOptions::default() };
        let result = program.test_run(options).with_context(|| format!("run `{name}` on {} bytes", frame.len()))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { verdict: result.return_value.cast_signed(), frame: out, duration: result.duration })
    }
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}` in the eBPF object"))?;
    program.try_into().with_context(|| format!("`{name}` is no XDP program"))
}
