//! The skills of several servers: listed as resources are, each under URIs that lead to its server.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{BadCursor, Catalog, Merged, Scope, uri_forms};
use crate::auth::Identity;
use crate::offer::skills::Skill;
use crate::server::handle::Handle;

/// The limit for skills on one page.
const PAGE: usize = 100;

/// A skill under the URIs that callers use.
pub(super) struct ShownSkill {
    /// That of its `SKILL.md`.
    uri: String,
    /// Its entry.
    text: String,
}

impl Catalog {
    /// The members of the result of `skills/list` for a caller, without braces: the skills whose `SKILL.md` it may read.
    ///
    /// # Errors
    /// The gateway never issued this cursor.
    pub(crate) fn skills_page(
        &self,
        identity: &Identity,
        scope: Scope<'_>,
        cursor: Option<&str>,
    ) -> Result<String, BadCursor> {
        let last = match cursor {
            Some(cursor) => Some(
                URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(BadCursor)?,
            ),
            None => None,
        };
        let all = self.skills(scope);
        let start = last.map_or(0, |last| all.partition_point(|skill| skill.uri <= last));
        let may = |skill: &&ShownSkill| self.may_hear_of(identity, scope, &skill.uri);
        let mut rest = all[start..].iter().filter(may);
        let page: Vec<&ShownSkill> = rest.by_ref().take(PAGE).collect();
        let texts: Vec<&str> = page.iter().map(|skill| skill.text.as_str()).collect();
        let next = page.last().filter(|_| rest.next().is_some());
        let next = next.map(|last| format!(r#","nextCursor":"{}""#, URL_SAFE_NO_PAD.encode(&last.uri)));
        Ok(format!(r#""skills":[{}]{}"#, texts.join(","), next.unwrap_or_default()))
    }
}

impl Merged {
    /// The skills of a part of the catalog, sorted by URI; those of several servers are collected once.
    fn skills(&self, scope: Scope<'_>) -> Arc<Vec<ShownSkill>> {
        let kept = match scope {
            Scope::Server(_) => None,
            Scope::All => Some(&self.skills),
            Scope::Namespace(name) => self.namespaces().get(name).map(|one| &one.skills),
        };
        match kept {
            Some(kept) => kept.get_or_init(|| self.collected(scope)).clone(),
            None => self.collected(scope),
        }
    }

    fn collected(&self, scope: Scope<'_>) -> Arc<Vec<ShownSkill>> {
        let mut all = Vec::new();
        for server in self.servers_in(scope) {
            let offer = self.alone(server).map(|alone| alone.offer.clone()).unwrap_or_default();
            if offer.listed {
                all.extend(offer.skills.iter().filter_map(|skill| self.shown_skill(scope, server, skill)));
            }
        }
        all.sort_by(|a, b| a.uri.cmp(&b.uri));
        Arc::new(all)
    }

    /// A skill under the first form of its URIs that leads to its server for all of its files; none if there is no such form.
    fn shown_skill(&self, scope: Scope<'_>, server: &Arc<Handle>, skill: &Skill) -> Option<ShownSkill> {
        if matches!(scope, Scope::Server(_)) {
            return Some(ShownSkill { uri: skill.uri.to_string(), text: skill.shown(|_| None) });
        }
        let leads_there = |uri: &str| {
            let reader = self.reader(scope, uri);
            reader.is_some_and(|entry| entry.first().is_some_and(|reader| reader.key == server.key))
        };
        let forms: [fn(&Handle, &str) -> Option<String>; 3] = [
            |_, uri| Some(uri.to_owned()),
            |server, uri| uri_forms(&server.key, uri)[0].clone(),
            |server, uri| uri_forms(&server.key, uri)[1].clone(),
        ];
        let fits = |form: &fn(&Handle, &str) -> Option<String>| {
            skill.files().all(|file| form(server, file).is_some_and(|uri| leads_there(&uri)))
        };
        let form = forms.into_iter().find(fits)?;
        Some(ShownSkill { uri: form(server, &skill.uri)?, text: skill.shown(|uri| form(server, uri)) })
    }
}
