//! Why a packet was dropped.

/// Declares [`Reason`] together with its names and one-line explanations.
macro_rules! reasons {
    ($($variant:ident = $value:literal, $name:literal, $text:literal;)+) => {
        /// Why a packet was dropped. One numbered list for the data path, the counters and the CLI.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $text] $variant = $value,)+
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name that counters and the CLI show.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One line for the person who reads the counter.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    Malformed = 1, "malformed", "a header is cut short or contradicts the packet's length";
    SpoofedSource = 2, "spoofed-source", "a container sent from an address that is not its own";
    SpoofedMac = 3, "spoofed-mac", "a container sent from a hardware address that is not its own";
    Icc = 4, "icc", "inter-container communication is off on this network";
    Isolated = 5, "isolated", "the destination is a container of another network";
    DirectAccess = 6, "direct-access", "a container's address was addressed from outside; only published ports are reachable";
    LoopbackAddress = 7, "loopback-address", "a loopback address arrived from outside or from a container";
    Untranslatable = 8, "untranslatable", "the protocol cannot be masqueraded, and the container's address must not leave the host";
    FlowTableFull = 9, "flow-table-full", "the flow table is full; the new flow was refused";
    PortsExhausted = 10, "ports-exhausted", "no masquerade port is free towards this destination; the new flow was refused";
    NoExternalAddress = 11, "no-external-address", "the outgoing interface has no address to masquerade with";
    NotExternal = 12, "not-external", "the route leaves by an interface that netpath does not serve";
    EndpointGone = 13, "endpoint-gone", "the container of this flow or port is gone";
    NoFlow = 14, "no-flow", "a packet that cannot begin a flow belongs to none";
    Fragment = 15, "fragment", "a fragment whose first fragment was not seen";
    UnknownProtocol = 16, "unknown-protocol", "an EtherType that the bridge does not carry";
    RewriteFailed = 17, "rewrite-failed", "the kernel refused to rewrite the packet";
    Leak = 18, "leak", "a packet with an address of a container network was about to leave untranslated";
    MartianSource = 19, "martian-source", "a packet from outside with a source that cannot be outside";
    Internal = 20, "internal", "the network is internal: its containers reach each other and the bridge only";
    SourceNotAllowed = 21, "source-not-allowed", "the published port is open to other sources only";
    RouterAdvertisement = 22, "router-advertisement", "a container sent a router advertisement or a redirect";
    TooBig = 23, "too-big", "larger than the other network's interfaces take, and no router is in between to say so";
    FlowQuota = 24, "flow-quota", "the container has its share of the flow table; the new flow was refused";
    PortTaken = 25, "port-taken", "another CPU was faster to take the masquerade port, over and over; the new flow was refused";
}

impl Reason {
    /// Whether a new flow was refused for want of room: its sender is told (RFC 5508, REQ-8).
    #[inline(always)]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::FlowTableFull | Self::PortsExhausted | Self::FlowQuota)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_dense_from_one() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i + 1);
            assert!(Reason::ALL.iter().skip(i + 1).all(|other| other.name() != reason.name()));
        }
    }
}
