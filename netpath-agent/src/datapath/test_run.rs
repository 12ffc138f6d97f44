//! Programs of tc run on single frames, for tests and benchmarks.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use super::Datapath;

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// -1: the next program's turn, 2: dropped, 7: redirected.
    pub verdict: i32,
    pub frame: Vec<u8>,
    /// Mean of one run.
    pub duration: Duration,
}

impl Datapath {
    /// Runs a program on one frame (BPF_PROG_TEST_RUN), as if it came from the loopback interface of the
    /// calling thread's network namespace. Redirects are decided, not done. For tests and benchmarks.
    ///
    /// With `repeat` above 1 each run gets the frame as the run before left it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to run it: the frame is cut within the Ethernet or IP header.
    pub fn test_run(&self, name: &str, frame: &[u8], repeat: u32) -> Result<TestRun> {
        self.test_run_segments(name, frame, 0, repeat)
    }

    /// As [`Self::test_run`], on a frame that stands for several segments with `gso_size` bytes of data each.
    ///
    /// # Errors
    ///
    /// As in [`Self::test_run`].
    pub fn test_run_segments(&self, name: &str, frame: &[u8], gso_size: u16, repeat: u32) -> Result<TestRun> {
        // linux/bpf.h: `gso_size` in `struct __sk_buff`.
        const GSO_SIZE_OFF: usize = 176;
        let mut ctx = [0; GSO_SIZE_OFF + size_of::<u32>()];
        ctx[GSO_SIZE_OFF..].copy_from_slice(&u32::from(gso_size).to_ne_bytes());
        self.test_run_with(name, frame, &ctx, repeat)
    }

    /// As [`Self::test_run`], once, on a frame that came to this host by the interface `ingress_ifindex`.
    ///
    /// # Errors
    ///
    /// As in [`Self::test_run`].
    pub fn test_run_forwarded(&self, name: &str, frame: &[u8], ingress_ifindex: u32) -> Result<TestRun> {
        // As above: `ingress_ifindex`.
        const INGRESS_IFINDEX_OFF: usize = 36;
        let mut ctx = [0; INGRESS_IFINDEX_OFF + size_of::<u32>()];
        ctx[INGRESS_IFINDEX_OFF..].copy_from_slice(&ingress_ifindex.to_ne_bytes());
        self.test_run_with(name, frame, &ctx, 1)
    }

    /// `ctx` is the beginning of a `struct __sk_buff`.
    fn test_run_with(&self, name: &str, frame: &[u8], ctx: &[u8], repeat: u32) -> Result<TestRun> {
        let program = self.ebpf.program(name).with_context(|| format!("no program `{name}` in the eBPF object"))?;
        let program: &SchedClassifier = program.try_into().with_context(|| format!("`{name}` is no tc program"))?;
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(ctx),
            repeat,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).with_context(|| format!("run `{name}` on {} bytes", frame.len()))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { verdict: result.return_value.cast_signed(), frame: out, duration: result.duration })
    }
}
