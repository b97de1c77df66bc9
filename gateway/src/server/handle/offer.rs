//! A server's part of the catalog.

use std::sync::Arc;

use portcullis_mcp::protocol::extensions::{APPS, Extensions};
use portcullis_mcp::upstream::ServerCapabilities;

use crate::offer::item::{Items, Kind};
use crate::offer::skills::Skills;

/// A server's part of the catalog; the server keeps its names while it is away.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Offer {
    /// Its tools.
    pub(crate) tools: Items,
    /// Its prompts.
    pub(crate) prompts: Items,
    /// Its resources.
    pub(crate) resources: Items,
    /// Its resource templates.
    pub(crate) templates: Items,
    /// Its skills.
    pub(crate) skills: Skills,
    /// Its declared capabilities.
    pub(crate) capabilities: ServerCapabilities,
    /// Its extensions: those that it declares, and MCP Apps if one of its tools has a page.
    pub(crate) extensions: Extensions,
    /// The name of its software (`serverInfo.name`), if reported: replicas of one server report the same.
    pub(crate) software: Option<Arc<str>>,
    /// Whether all this is listed now.
    pub(crate) listed: bool,
}

impl Offer {
    /// Its items of one kind.
    pub(crate) fn of(&self, kind: Kind) -> &Items {
        match kind {
            Kind::Tools => &self.tools,
            Kind::Prompts => &self.prompts,
            Kind::Resources => &self.resources,
            Kind::Templates => &self.templates,
        }
    }

    /// The same, mutable.
    pub(crate) fn of_mut(&mut self, kind: Kind) -> &mut Items {
        match kind {
            Kind::Tools => &mut self.tools,
            Kind::Prompts => &mut self.prompts,
            Kind::Resources => &mut self.resources,
            Kind::Templates => &mut self.templates,
        }
    }

    /// Takes over the extensions that the server declares. Servers of MCP Apps need not declare that they are.
    pub(super) fn set_extensions(&mut self, declared: Extensions) {
        let has_pages = self.tools.iter().any(|tool| tool.links.iter().any(|link| link.uri.starts_with("ui://")));
        self.extensions = if has_pages { declared.with(APPS, "{}") } else { declared };
    }

    /// Removes what a server lists for each caller alone.
    pub(super) fn show_nobody(&mut self) {
        Kind::ALL.into_iter().for_each(|kind| *self.of_mut(kind) = Items::default());
        self.skills = Skills::default();
    }

    /// Whether it accepts requests for resources: it declares or lists some, or one of its tools names one.
    pub(crate) fn has_resources(&self) -> bool {
        let names_some = || self.tools.iter().any(|tool| !tool.links.is_empty());
        self.capabilities.resources || !self.resources.is_empty() || !self.templates.is_empty() || names_some()
    }
}
