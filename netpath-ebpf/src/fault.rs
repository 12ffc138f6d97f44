//! Deliberate faults, by which the differential test is tested: each must be found. They are there with the feature
//! `faults` only, which nothing that users build has; without it every question is `false` when the compiler looks.

/// Declares [`Fault`] together with the names of faults.
macro_rules! faults {
    ($($variant:ident = $value:literal, $name:literal, $text:literal;)+) => {
        /// What can be wrong with the data plane.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Fault {
            $(#[doc = $text] $variant = $value,)+
        }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// What tests and documentation call the fault.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

faults! {
    HopsKept = 1, "hops-kept", "The TTL is not decremented.";
    LastHopForwarded = 2, "last-hop-forwarded", "A packet at the end of its hops goes on.";
    TransportChecksumKept = 3, "transport-checksum-kept", "The transport checksum does not follow the addresses.";
    ZeroChecksumFilled = 4, "zero-checksum-filled", "A datagram without a checksum gets one, which is wrong.";
    ErrorChecksumKept = 5, "error-checksum-kept", "An ICMP error's checksum does not follow what it quotes.";
    QuotedAddressKept = 6, "quoted-address-kept", "The addresses of a quoted packet are not translated back.";
    QuotedPortKept = 7, "quoted-port-kept", "The ports of a quoted packet are not translated back.";
    PortClassIgnored = 8, "port-class-ignored", "A port below 1024 gets any port (RFC 4787, REQ-3a).";
    PublishedPortTaken = 9, "published-port-taken", "Masquerade uses published ports (CVE-2021-3773).";
    MappingByDestination = 10, "mapping-by-destination", "The host port depends on the destination (RFC 4787, REQ-1).";
    AnybodyAnswers = 11, "anybody-answers", "Who was never talked to may answer (RFC 4787, REQ-8).";
    WrongReplyPort = 12, "wrong-reply-port", "Replies go to the port beside the right one.";
    ResetEndsFlow = 13, "reset-ends-flow", "Any RST from outside ends its flow at once (RFC 7857, 2).";
    ResetBelieved = 14, "reset-believed", "A RST at any sequence number is believed (RFC 5961, 3.2).";
    AnySegmentBegins = 15, "any-segment-begins", "A connection may begin without SYN.";
    TimeoutIgnored = 16, "timeout-ignored", "Flows never expire.";
    TimeoutShort = 17, "timeout-short", "Flows expire after a quarter of their time.";
    GenerationIgnored = 18, "generation-ignored", "Flows outlive their container.";
    SpoofedAddress = 19, "spoofed-address", "A container may use its neighbour's address.";
    SpoofedMac = 20, "spoofed-mac", "A container may use any hardware address.";
    MartianBelieved = 21, "martian-believed", "Sources that cannot be outside are believed.";
    DirectAccess = 22, "direct-access", "Containers' own addresses are reached from outside.";
    IccIgnored = 23, "icc-ignored", "Containers that may not talk to each other do.";
    LeakGuardOff = 24, "leak-guard-off", "What has no name outside leaves under its own.";
    UntranslatablePasses = 25, "untranslatable-passes", "Protocols without ports leave untranslated.";
    PublishedNameForgotten = 26, "published-name-forgotten", "A published port's answers are masqueraded.";
    HairpinSourceKept = 27, "hairpin-source-kept", "A hairpin keeps its source (RFC 4787, REQ-9a).";
    HairpinNameForgotten = 28, "hairpin-name-forgotten", "Nobody remembers which name a hairpin asked for.";
    WrongNextHop = 29, "wrong-next-hop", "A hairpin goes to the hardware address of the bridge.";
    FragmentsForgotten = 30, "fragments-forgotten", "Nobody remembers a first fragment.";
    FragmentIdIgnored = 31, "fragment-id-ignored", "Fragments of all datagrams between two hosts are one's.";
    HeaderChecksumUnread = 32, "header-checksum-unread", "A wrong IPv4 header checksum is not seen (RFC 1812, 5.2.2).";
    ErrorChecksumUnread = 33, "error-checksum-unread", "An ICMP error's wrong checksum is not seen (RFC 5508, REQ-3).";
    ErrorRefreshes = 34, "error-refreshes", "An ICMP error keeps its flow alive (RFC 5508, REQ-6).";
    EndedNameRevived = 35, "ended-name-revived", "A question brings a named flow back that has ended.";
    ErrorByAddress = 36, "error-by-address", "An error about a hairpin is for who has the asker's address.";
    DroppedFirstFollowed = 37, "dropped-first-followed", "A fragment leaves though its first one was dropped.";
}

impl Fault {
    /// Whether IPv6's programs can have it, too: what they write is their own affair, while they decide by the same
    /// functions, and `inside_from_container6` has no stack left for more questions there.
    #[inline(always)]
    pub const fn is_in_ipv6(self) -> bool {
        matches!(
            self,
            Self::HopsKept
                | Self::TransportChecksumKept
                | Self::ErrorChecksumKept
                | Self::QuotedAddressKept
                | Self::QuotedPortKept
                | Self::WrongNextHop
                | Self::FragmentsForgotten
                | Self::ErrorChecksumUnread
        )
    }
}

/// Whether the data plane of the family with addresses `A` is to have this fault.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub const fn is_active<A>(_fault: Fault) -> bool {
    false
}

/// Whether the data plane of the family with addresses `A` is to have this fault.
#[cfg(feature = "faults")]
#[inline(always)]
pub fn is_active<A>(fault: Fault) -> bool {
    // SAFETY: one byte, which no program writes and others write as a whole.
    (size_of::<A>() == 4 || fault.is_in_ipv6()) && unsafe { core::ptr::read_volatile(&raw const FAULT) == fault as u8 }
}

/// The number of the fault that is active, 0: none. Alone in its section, which the agent pins as a map and tests write.
#[cfg(feature = "faults")]
#[unsafe(no_mangle)]
#[cfg_attr(target_arch = "bpf", unsafe(link_section = ".data.fault"))]
static mut FAULT: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique() {
        for (i, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, i + 1);
            assert_eq!(Fault::ALL.iter().filter(|other| other.name() == fault.name()).count(), 1);
        }
    }

    #[test]
    fn no_fault_is_active_unless_it_is_asked_for() {
        assert!(Fault::ALL.iter().all(|fault| !is_active::<[u8; 4]>(*fault)));
    }
}
