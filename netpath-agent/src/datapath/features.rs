//! Helpers that older kernels lack: asked for by trying, not by the version. Programs have another way for each, and the
//! verifier does not see what is behind a switch that is off.

use aya::EbpfLoader;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};

use super::attempts::verify;

/// The switch in the programs, who calls the helper, and the helper.
const FEATURES: [(&str, ProgramType, BpfHelper); 3] = [
    // Linux 5.11
    ("COARSE_CLOCK", ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
    // Linux 5.18
    ("SET_RETVAL", ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
    // Linux 5.5, with CONFIG_BPF_EVENTS
    ("READ_KERNEL", ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_probe_read_kernel),
];

/// Which helpers the programs may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Features {
    /// Those that this kernel has.
    Found,
    /// None that a kernel may lack, and no XDP program for frames in several pieces.
    None,
}

/// Sets the programs' switches. They are on unless they are set.
pub(super) fn set(loader: &mut EbpfLoader<'_>, features: Features) {
    for (name, program, helper) in FEATURES {
        // A kernel that does not say is asked again when it loads the programs.
        if features == Features::None || matches!(verify(|| is_helper_supported(program, helper)), Ok(false)) {
            loader.override_global(name, &0u8, true);
        }
    }
}
