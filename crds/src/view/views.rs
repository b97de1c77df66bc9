//! Keeps views by namespace and name, and says which of them are served: those that are valid, the oldest of a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{ReadView, View};
use crate::mcpserver::AllowedViews;
use crate::names::ServerKey;

/// Views that one namespace may have; the oldest are served.
pub const MAX_VIEWS: usize = 256;

/// Views by namespace and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Views {
    all: BTreeMap<ServerKey, ReadView>,
    /// Valid views of each namespace, the oldest first.
    ages: BTreeMap<String, BTreeSet<(i64, String)>>,
    /// Served views that look at labels, by the namespaces of the servers that they may select.
    by_labels: BTreeMap<String, BTreeSet<ServerKey>>,
}

impl Views {
    /// Adds or replaces the view of this key; none removes it. Returns the views that are served in another form than before,
    /// newly, or no longer: adding one can displace another.
    pub fn put(&mut self, key: &ServerKey, view: Option<ReadView>) -> BTreeSet<ServerKey> {
        let before = self.served_in(&key.namespace);
        let old = match view {
            Some(view) => self.all.insert(key.clone(), view),
            None => self.all.remove(key),
        };
        self.set_age(key, old.as_ref());
        let after = self.served_in(&key.namespace);
        let served = |names: &BTreeSet<String>| names.contains(&key.name);
        let form = |view: Option<&ReadView>| view.and_then(|view| view.view.as_ref().ok()).cloned();
        let (old_form, new_form) = (form(old.as_ref()), form(self.all.get(key)));
        let mut changed: BTreeSet<ServerKey> =
            before.symmetric_difference(&after).map(|name| ServerKey::new(&*key.namespace, &**name)).collect();
        if served(&before) && served(&after) && old_form != new_form {
            changed.insert(key.clone());
        }
        // What a view looked at before it changed is in its old form.
        for changed in &changed {
            let was = if changed == key { old_form.clone() } else { form(self.all.get(changed)) };
            was.iter().for_each(|view| self.note_labels(view, false));
        }
        for key in &changed {
            let now = self.served(key).cloned();
            now.iter().for_each(|view| self.note_labels(view, true));
        }
        changed
    }

    /// One view, served or not.
    pub fn get(&self, key: &ServerKey) -> Option<&ReadView> {
        self.all.get(key)
    }

    /// All views, served or not, sorted by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &ReadView> {
        self.all.values()
    }

    /// One view, if it is served.
    pub fn served(&self, key: &ServerKey) -> Option<&Arc<View>> {
        let view = self.all.get(key)?;
        let oldest = self.ages.get(&key.namespace)?.iter().take(MAX_VIEWS);
        let is_among = oldest.into_iter().any(|(created, name)| (*created, name) == (view.created, &key.name));
        view.view.as_ref().ok().filter(|_| is_among)
    }

    /// All views that are served, sorted by namespace and name.
    pub fn all_served(&self) -> impl Iterator<Item = &Arc<View>> {
        self.all.keys().filter_map(|key| self.served(key))
    }

    /// Whether a view that may select the server looks at labels.
    pub fn look_at_labels_of(&self, server: &ServerKey, allowed: &AllowedViews) -> bool {
        let mut views = self.by_labels.get(&server.namespace).into_iter().flatten();
        views.any(|view| view.namespace == server.namespace || allowed.allow(&view.namespace))
    }

    fn served_in(&self, namespace: &str) -> BTreeSet<String> {
        let ages = self.ages.get(namespace).into_iter().flatten();
        ages.take(MAX_VIEWS).map(|(_, name)| name.clone()).collect()
    }

    /// Notes the age of a view that has replaced `old`.
    fn set_age(&mut self, key: &ServerKey, old: Option<&ReadView>) {
        let ages = self.ages.entry(key.namespace.clone()).or_default();
        if let Some(old) = old {
            ages.remove(&(old.created, key.name.clone()));
        }
        if let Some(view) = self.all.get(key).filter(|view| view.view.is_ok()) {
            ages.insert((view.created, key.name.clone()));
        }
        if ages.is_empty() {
            self.ages.remove(&key.namespace);
        }
    }

    fn note_labels(&mut self, view: &View, is_served: bool) {
        if !view.looks_at_labels() {
            return;
        }
        for namespace in view.namespaces() {
            let views = self.by_labels.entry(namespace.to_owned()).or_default();
            if is_served {
                views.insert(view.key.clone());
            } else {
                views.remove(&view.key);
            }
            if views.is_empty() {
                self.by_labels.remove(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::policy::Policies;
    use crate::snapshot::Server;

    fn view(name: &str, created: i64, spec: Value) -> ReadView {
        let time = k8s_openapi::jiff::Timestamp::from_second(created).unwrap();
        let metadata = json!({"namespace": "team", "name": name, "creationTimestamp": time.to_string()});
        ReadView::of(&json!({"metadata": metadata, "spec": spec}), "home")
    }

    fn put(views: &mut Views, name: &str, view: Option<ReadView>) -> Vec<String> {
        views.put(&ServerKey::new("team", name), view).into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn the_oldest_views_of_a_namespace_are_served_and_the_next_one_follows_when_one_goes() {
        let mut views = Views::default();
        let all = json!({"select": [{}]});
        for n in 0..MAX_VIEWS {
            let name = format!("v{n}");
            assert_eq!(put(&mut views, &name, Some(view(&name, 100, all.clone()))), [name]);
        }
        assert_eq!(put(&mut views, "young", Some(view("young", 200, all.clone()))), Vec::<String>::new());
        assert!(views.served(&ServerKey::new("team", "young")).is_none() && views.iter().count() == MAX_VIEWS + 1);
        // An invalid one takes no place.
        assert_eq!(put(&mut views, "v7", Some(view("v7", 100, json!({})))), ["v7", "young"]);
        // One that is older displaces the youngest.
        assert_eq!(put(&mut views, "old", Some(view("old", 1, all.clone()))), ["old", "young"]);
        assert_eq!(put(&mut views, "old", Some(view("old", 1, all))), Vec::<String>::new());
        assert_eq!(put(&mut views, "old", Some(view("old", 1, json!({"select": [{"tools": ["a"]}]})))), ["old"]);
        assert_eq!(put(&mut views, "old", None), ["old", "young"]);
        assert_eq!(views.all_served().count(), MAX_VIEWS);
    }

    #[test]
    fn a_server_shows_its_labels_where_a_view_that_may_select_it_looks_at_them() {
        let mut views = Views::default();
        let labels = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        let labelled = |views: &Views| -> Vec<bool> {
            let server = |namespace: &str, allowed: &[&str]| Server {
                key: ServerKey::new(namespace, "s"),
                allowed_views: AllowedViews { namespaces: allowed.iter().map(|name| (*name).to_owned()).collect() },
                ..Server::from_url("s", "http://a/")
            };
            let all =
                [server("team", &[]), server("shared", &[]), server("shared", &["te*"]), server("far", &["team"])];
            let governed = |server| Policies::default().govern_beside(Some(views), server, &labels);
            all.into_iter().map(|server| governed(server).labels == labels).collect()
        };
        assert_eq!(labelled(&views), [false; 4]);
        put(&mut views, "v", Some(view("v", 1, json!({"select": [{"servers": {"names": ["*"]}}]}))));
        assert_eq!(labelled(&views), [false; 4], "it does not look at labels");
        let selector = json!({"selector": {"matchLabels": {"tier": "gold"}}});
        put(&mut views, "v", Some(view("v", 1, json!({"select": [{"servers": selector}]}))));
        assert_eq!(labelled(&views), [true, false, false, false]);
        let shared = json!({"selector": {"matchLabels": {"tier": "gold"}}, "namespaces": ["shared"]});
        put(&mut views, "v", Some(view("v", 1, json!({"select": [{"servers": shared}]}))));
        assert_eq!(labelled(&views), [false, false, true, false]);
        put(&mut views, "v", None);
        assert_eq!((labelled(&views), views), (vec![false; 4], Views::default()));
    }
}
