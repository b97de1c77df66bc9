//! Decides which names and URIs the items of a server may have.
//!
//! Pure. The namespace part of a name depends on the name and on which namespaces have servers, and on nothing that is
//! written in one of them: so no namespace can take a name of another, or inherit one that became free.

use std::borrow::Cow;
use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use portcullis_crds::mcpview::ViewSearch;
use portcullis_crds::names::TOOL_NAME_JOINER;
use portcullis_crds::rules::is_dns_label;
use portcullis_crds::{ServerKey, View};

use crate::offer::item::{Item, Kind};
use crate::offer::search_tools;
use crate::offer::short_names::{is_makeable, short_form};
use crate::server::handle::Handle;

/// Characters of a namespace within a name. With [`SERVER_ROOM`] and the joints it fits into the part that a short form
/// keeps, so that every short form includes its namespace.
const NAMESPACE_ROOM: usize = 32;

/// Characters of a server's name besides its namespace.
const SERVER_ROOM: usize = 20;

/// Marks a shortened label: no label contains an upper-case letter.
const CUT: char = 'X';

/// Marks the owner part of a URI: no host begins with it.
const MARK: char = '~';

/// Whether namespaces of a cluster belong to different teams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tenancy {
    /// They do: names include their namespace, except those of the home namespace.
    #[default]
    Isolated,
    /// They do not: all names share one space.
    Shared,
}

impl FromStr for Tenancy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "Isolated" => Ok(Self::Isolated),
            "Shared" => Ok(Self::Shared),
            _ => Err(()),
        }
    }
}

/// The naming of one view.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// Labels of the namespaces whose servers have prefixed names. A name that begins with one belongs to it.
    spaces: HashSet<Box<str>>,
    /// The namespace whose servers have unprefixed names in a view; `None`: the home namespace.
    own: Option<Box<str>>,
    /// The names of the tools for searching are taken.
    is_searched: bool,
}

/// The changes to an item's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NameChanges {
    /// Another server has the bare name, so this one includes the server's.
    pub(crate) renamed: bool,
    /// The name is shortened.
    pub(crate) shortened: bool,
}

impl Naming {
    /// The naming of all servers; with [`Tenancy::Isolated`] only those of the home namespace have unprefixed names.
    pub(crate) fn of_all(tenancy: Tenancy, servers: &[Arc<Handle>]) -> Self {
        if tenancy == Tenancy::Shared {
            return Self::default();
        }
        let of_namespaces = servers.chunk_by(|a, b| a.key.namespace == b.key.namespace).filter_map(<[_]>::first);
        let others = of_namespaces.filter(|server| !server.spec().is_home());
        let spaces = others.map(|server| namespace_label(&server.key.namespace).into()).collect();
        Self { spaces, ..Self::default() }
    }

    /// The naming of a view: servers of its own namespace have unprefixed names.
    pub(crate) fn of_view(view: &View, servers: &[Arc<Handle>]) -> Self {
        let others = servers.iter().filter(|server| server.key.namespace != view.key.namespace);
        Self {
            spaces: others.map(|server| namespace_label(&server.key.namespace).into()).collect(),
            own: Some(view.key.namespace.as_str().into()),
            is_searched: view.spec.search != ViewSearch::Never,
        }
    }

    /// Whether the names of a server include its namespace.
    pub(crate) fn is_spaced(&self, server: &Handle) -> bool {
        !self.spaces.is_empty()
            && match &self.own {
                Some(own) => **own != *server.key.namespace,
                None => !server.spec().is_home(),
            }
    }

    /// The possible names of a tool or a prompt, the best first.
    pub(crate) fn names<'a>(
        &'a self,
        kind: Kind,
        server: &'a Handle,
        item: &'a Item,
        spaced: bool,
    ) -> impl Iterator<Item = (Arc<str>, NameChanges)> + 'a {
        let key = &server.key;
        let own = (!spaced).then(|| (item.name.clone(), item.full.is_some()));
        let with_namespace = spaced.then(|| spaced_name(kind, key, item));
        let first = own.into_iter().chain(with_namespace);
        let first = first.map(|(name, shortened)| (name, NameChanges { renamed: false, shortened }));
        let joined = move |front: &str| made(kind, format!("{front}{TOOL_NAME_JOINER}{}", item.full_name()));
        let with_server = (!spaced).then_some(()).into_iter().map(move |()| joined(&key.name));
        let with_both = std::iter::once(())
            .map(move |()| joined(&format!("{}_{}", namespace_label(&key.namespace), label(&key.name, SERVER_ROOM))));
        let others = with_server.chain(with_both);
        let others = others.map(|(name, shortened)| (name, NameChanges { renamed: true, shortened }));
        let all = first.chain(others);
        // Names with the server's own namespace cannot belong to another, whatever they look like.
        let is_taken = move |name: &str| self.is_searched && kind == Kind::Tools && search_tools::NAMES.contains(&name);
        all.filter(move |(name, _)| (spaced || !self.is_of_a_space(name)) && !is_taken(name))
    }

    /// The URI or pattern of a server's resource or template in this view; `None` if there is no such form.
    pub(crate) fn uri(&self, server: &Handle, uri: &Arc<str>, spaced: bool) -> Option<Arc<str>> {
        match spaced {
            true => qualified(uri, &server.key.namespace).map(Into::into),
            false => Qualified::read(uri).is_none().then(|| uri.clone()),
        }
    }

    /// Whether a name belongs to a namespace whose servers have prefixed names.
    fn is_of_a_space(&self, name: &str) -> bool {
        if self.spaces.is_empty() {
            return false;
        }
        let Some((front, _)) = name.split_once(TOOL_NAME_JOINER) else { return false };
        let space = front.split_once('_').filter(|(_, server)| !server.contains('_')).map(|(space, _)| space);
        self.spaces.contains(front) || space.is_some_and(|space| self.spaces.contains(space))
    }
}

/// The name with the item's namespace, computed once; and whether it is shortened.
fn spaced_name(kind: Kind, key: &ServerKey, item: &Item) -> (Arc<str>, bool) {
    let full = || format!("{}{TOOL_NAME_JOINER}{}", namespace_label(&key.namespace), item.full_name());
    let (name, shortened) = item.spaced.0.get_or_init(|| made(kind, full()));
    (name.clone(), *shortened)
}

/// A name that the gateway composes: for a tool its short form, if not every client accepts the full one.
fn made(kind: Kind, full: String) -> (Arc<str>, bool) {
    match kind {
        Kind::Tools if !is_makeable(&full) => (short_form(&full).into(), true),
        _ => (full.into(), false),
    }
}

fn namespace_label(namespace: &str) -> Cow<'_, str> {
    label(namespace, NAMESPACE_ROOM)
}

/// A label of at most `room` characters: unchanged, or its beginning, `X` and base32 of its SHA-256.
fn label(label: &str, room: usize) -> Cow<'_, str> {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    if label.len() <= room {
        return Cow::Borrowed(label);
    }
    let digest = digest::digest(&digest::SHA256, label.as_bytes());
    let kept = (room - 1) / 2;
    let mut short: String = label.chars().take(kept).collect();
    short.push(CUT);
    short.extend(digest.as_ref().iter().take(room - 1 - kept).map(|byte| char::from(DIGITS[usize::from(byte % 32)])));
    Cow::Owned(short)
}

/// A URI with its owner: `scheme://~NAMESPACE/...`, or `scheme://~NAMESPACE.SERVER/...`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Qualified<'a> {
    /// The namespace.
    pub(crate) namespace: &'a str,
    /// The server, if the URI names one.
    pub(crate) server: Option<&'a str>,
    /// The URI as the server knows it.
    pub(crate) own: String,
}

impl<'a> Qualified<'a> {
    /// Parses such a URI; `None` if it names no namespace.
    pub(crate) fn read(uri: &'a str) -> Option<Self> {
        let (begin, rest) = parts(uri)?;
        let (whose, rest) = rest.strip_prefix(MARK)?.split_once('/')?;
        let (namespace, server) = match whose.split_once('.') {
            Some((namespace, server)) => (namespace, Some(server)),
            None => (whose, None),
        };
        let valid = is_dns_label(namespace) && server.is_none_or(is_dns_label);
        valid.then(|| Self { namespace, server, own: format!("{begin}{rest}") })
    }
}

/// The URI or pattern with its owner; `None` if it has no scheme.
pub(super) fn qualified(uri: &str, whose: &str) -> Option<String> {
    let (begin, rest) = parts(uri)?;
    Some(format!("{begin}{MARK}{whose}/{rest}"))
}

/// The same, with the server too.
pub(super) fn qualified_by_server(uri: &str, key: &ServerKey) -> Option<String> {
    qualified(uri, &format!("{}.{}", key.namespace, key.name))
}

/// The URI forms of a server's resource among those of other servers: with its namespace, and with its server.
pub(crate) fn uri_forms(key: &ServerKey, uri: &str) -> [Option<String>; 2] {
    [qualified(uri, &key.namespace), qualified_by_server(uri, key)]
}

/// A URI up to its authority or path, and the rest.
fn parts(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once(':')?;
    let is_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let slashes = if rest.starts_with("//") { 2 } else { 0 };
    let valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme);
    valid.then(|| uri.split_at(scheme.len() + 1 + slashes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_label_that_is_too_long_keeps_its_beginning_and_is_no_label_any_more() {
        assert_eq!(label("team-a", 32), "team-a");
        let (long, other) = ("n".repeat(63), format!("{}m", "n".repeat(62)));
        let (short, another) = (label(&long, NAMESPACE_ROOM), label(&other, NAMESPACE_ROOM));
        assert!(short.starts_with(&"n".repeat(15)) && short.chars().nth(15) == Some(CUT), "{short}");
        assert_eq!((short.len(), is_dns_label(&short), short == another), (32, false, false));
        assert!(NAMESPACE_ROOM + 1 + SERVER_ROOM + TOOL_NAME_JOINER.len() <= 55, "what a short form keeps");
    }

    #[test]
    fn a_uri_says_whose_it_is_and_comes_back() {
        for (uri, whose, expected) in [
            ("db://one/rows/7", "team-a", "db://~team-a/one/rows/7"),
            ("ui://widget/main.html", "team-a.shop", "ui://~team-a.shop/widget/main.html"),
            ("file:///etc", "t", "file://~t//etc"),
            ("urn:isbn:1", "t", "urn:~t/isbn:1"),
            ("db://{any}/rows/{id}", "t", "db://~t/{any}/rows/{id}"),
            ("db://~t/x", "u.v", "db://~u.v/~t/x"),
        ] {
            let made = qualified(uri, whose).unwrap();
            assert_eq!(made, expected);
            let read = Qualified::read(&made).unwrap();
            let whose_again = [Some(read.namespace), read.server].into_iter().flatten().collect::<Vec<_>>().join(".");
            assert_eq!((read.own.as_str(), whose_again.as_str()), (uri, whose));
        }
        for none in ["db://one/~t/x", "db://~T/x", "db://~/x", "db://~t.u.v/x", "db://~t", "~t/x", "x", "db://~t_u/x"] {
            assert_eq!(Qualified::read(none), None, "{none}");
        }
        assert_eq!((qualified("{+any}", "t"), qualified("{scheme}://x", "t")), (None, None));
    }

    proptest! {
        #[test]
        fn whatever_is_qualified_comes_back(uri in "[a-z]{1,4}:(//)?[~a-z./{}]{0,20}", whose in "[a-z][a-z-]{0,3}[a-z]") {
            let made = qualified(&uri, &whose).unwrap();
            let read = Qualified::read(&made).unwrap();
            prop_assert_eq!((read.own, read.namespace, read.server), (uri, whose.as_str(), None));
        }
    }
}
