//! `netpath agent --docker`: Docker Engine keeps bridges, interfaces, addresses and names, netpath forwards and translates.
//!
//! `follower` reads the Engine API and hears its events, `translate` says what that means (pure), `own_rules` whether the
//! Engine does netpath's work itself, and `apply` makes the difference to what is served.

mod apply;
mod follower;
mod own_rules;
mod translate;

pub use apply::Told;
pub use follower::follow;
pub use translate::{Container, Endpoint, Wanted};

/// What stands before the names of Docker's networks: its `bridge` is another one than netpath's.
pub const PREFIX: &str = "docker/";
