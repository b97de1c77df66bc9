//! The McpViews of a folder: the last good form of each.

use std::collections::BTreeMap;

use portcullis_crds::view::MAX_VIEWS;
use portcullis_crds::{ReadView, ServerKey, Views};

use super::Folder;

impl Folder {
    /// All views, and what is wrong with them, one sentence each. As in a cluster, where a refused change leaves the object as it
    /// was, a view that is no longer valid keeps its last good form.
    pub(super) fn views(&mut self, problems: &mut Vec<String>) -> Views {
        let mut declared: BTreeMap<&ServerKey, Vec<&ReadView>> = BTreeMap::new();
        for view in self.good.values().flat_map(|all| &all.views) {
            declared.entry(&view.key).or_default().push(view);
        }
        let mut good = BTreeMap::new();
        for (key, views) in declared {
            let problem = match (&views[0].view, views.len()) {
                (Ok(_), 1) => None,
                (Err(problems), 1) => Some(problems.join("; ")),
                (_, count) => Some(format!("it is declared {count} times: keep one")),
            };
            let served = match &problem {
                None => views.first().copied(),
                Some(_) => self.good_views.get(key),
            };
            good.extend(served.map(|view| (key.clone(), view.clone())));
            problems.extend(problem.map(|problem| format!("McpView {key}: {problem}")));
        }
        let mut all = Views::default();
        for (key, view) in &good {
            all.put(key, Some(view.clone()));
        }
        for view in all.iter().filter(|view| all.served(&view.key).is_none()) {
            let key = &view.key;
            problems.push(format!("McpView {key}: its namespace has more than {MAX_VIEWS}: remove some"));
        }
        self.good_views = good;
        all
    }
}
