//! Where Docker's rules on netfilter and the model differ and both are right, or netfilter is wrong: by name, each with
//! what it may look like.

/// Why netfilter does something else than the model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    /// What conntrack calls invalid is not translated and leaves with the container's address; here nothing leaves.
    LeaksInvalid,
    /// A foreign source or hardware address of a container: forwarded there, dropped here.
    ForwardsSpoofed,
    /// A source that no packet from outside can have: believed there without `rp_filter`, dropped here.
    BelievesMartian,
    /// The transport checksum is checked there, and a packet with a wrong one belongs to no connection; here it is
    /// translated and stays as wrong as it was, for its receiver to see.
    ChecksTransportChecksum,
    /// Sequence numbers are checked there (`nf_conntrack_tcp_be_liberal` = 0), and the host resets what does not fit;
    /// here that is left to the ends of the connection.
    TracksWindow,
    /// A connection may begin in its middle there (`nf_conntrack_tcp_loose` = 1).
    PicksUpMidStream,
    /// A protocol without ports has its addresses translated there, one container at a time, and so have ICMPv6's node
    /// information queries; here it is dropped.
    TranslatesAddressesOnly,
    /// Extension headers hide a packet's ports here: too many of them, and those behind which no transport header may be
    /// looked for; such a packet of a container is dropped. There all of them are walked past.
    LooksBehindHeaders,
    /// A container's port may have another name for each peer there, and one name belong to several containers; here
    /// it has one for all, of its own (RFC 4787, REQ-1 and REQ-3).
    NamesByPeer,
    /// A published port that speaks first has its published name here, and any there.
    PublishedSpeaksFirst,
    /// A container that asks a published port is seen under its own address there, bridged without a hop; here it is
    /// seen under the address that it asked (RFC 4787, REQ-9a).
    HairpinUnderOwnAddress,
    /// Where containers may not talk to each other, they do not reach each other's published ports there either.
    NoHairpinWithoutIcc,
    /// Fragments are put together there, and leave as one packet if that fits; here they go on one by one.
    MergesFragments,
    /// An error about a packet of a published port is translated here without a connection, which there must be known.
    ErrorNeedsConnection,
    /// An error that quotes less than 8 bytes of transport header, or a packet that was never sent, leaves untranslated
    /// there.
    LeaksError,
    /// The bridge's address can be talked to from outside there.
    GatewayFromOutside,
    /// Published ports can be reached from outside at 127.0.0.1 there (`route_localnet`).
    LoopbackFromOutside,
    /// What an earlier difference between the same two has left behind in conntrack.
    Consequence,
}
