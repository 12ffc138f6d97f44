//! Ctrl-C: namespaces, pins and processes go, whatever is going on.

use std::sync::Once;
use std::{panic, process, thread};

use tokio::signal::unix::{SignalKind, signal};

use crate::cleanup;

/// Makes SIGINT, SIGTERM and SIGHUP remove every world of this process and end it. Signals are handled, not blocked:
/// programs that are started would inherit what is blocked. Once is enough.
pub fn clean_up_on_interrupt() {
    static HANDLED: Once = Once::new();
    HANDLED.call_once(handle);
}

fn handle() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    let guard = runtime.enter();
    let [mut interrupt, mut terminate, mut hangup] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| signal(kind).expect("handle a signal"));
    drop(guard);
    thread::spawn(move || {
        let kind = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
                _ = hangup.recv() => SignalKind::hangup(),
            }
        });
        eprintln!("interrupted: removing what was made");
        // What another thread is doing fails from here on, and should not be heard.
        panic::set_hook(Box::new(|_| {
            loop {
                thread::park();
            }
        }));
        cleanup::remove_own();
        process::exit(128 + kind.as_raw_value());
    });
}
