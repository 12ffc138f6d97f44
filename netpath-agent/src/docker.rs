//! `netpath agent --docker`: Docker Engine keeps bridges, interfaces, addresses and names, netpath forwards and translates.
//!
//! `follower` reads the Engine API (`engine`) and hears its events, `said` is what is kept of that, `translate` says what it
//! means (pure), `listener` says whether dockerd runs, `own_rules` whether it does netpath's work itself, `pairs` which
//! interface is whose, and `apply` makes the difference to what is served.
//!
//! `netpath docker`: `plan` says what stands between a host's Docker and netpath, `migrate` does it. `daemon` is dockerd's
//! process and configuration file, `rules` knows its rules.

mod apply;
mod daemon;
mod engine;
mod follower;
mod listener;
pub mod migrate;
mod own_rules;
mod pairs;
pub mod plan;
mod removal;
mod routed;
mod rules;
mod said;
mod served;
mod translate;

pub use apply::Told;
pub use follower::{Following, follow};
pub use translate::{Container, Endpoint, Wanted};

/// What stands before the names of Docker's networks: its `bridge` is another one than netpath's.
pub const PREFIX: &str = "docker/";
