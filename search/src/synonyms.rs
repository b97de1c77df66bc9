//! Words that tools and people use for the same thing.
//!
//! Kept general: what one does to things, and what the trade abbreviates. No word is here for a certain server or query, and
//! none that often means something else.

use std::sync::LazyLock;

use hashbrown::HashMap;

use crate::words::stem;

/// Each row is one meaning.
const MEANINGS: [&[&str]; 166] = [
    // What is done.
    &["create", "add", "new", "make", "insert", "generate"],
    &["delete", "remove", "drop", "erase", "destroy", "discard", "trash", "forget"],
    &["get", "read", "retrieve", "fetch", "show", "view", "load", "obtain", "open"],
    &["list", "enumerate", "overview"],
    &["search", "find", "query", "lookup", "locate", "discover", "found"],
    &["update", "edit", "change", "modify", "patch", "replace", "alter", "adjust", "set"],
    &["send", "post", "publish", "sent"],
    &["run", "execute", "invoke", "trigger", "perform"],
    &["start", "begin", "launch", "boot"],
    &["stop", "end", "halt", "pause", "suspend", "cancel", "abort", "terminate", "kill"],
    &["resume", "continue", "unpause"],
    &["rename", "move", "relocate"],
    &["copy", "clone", "duplicate", "fork"],
    &["download", "export", "save", "store"],
    &["upload", "import", "attach"],
    &["convert", "transform", "translate"],
    &["compare", "diff", "difference", "versus"],
    &["draw", "plot", "visualize", "display", "chart", "graph", "diagram"],
    &["write", "append", "written"],
    &["deploy", "install", "rollout"],
    &["uninstall", "remove"],
    &["watch", "monitor", "observe", "track"],
    &["check", "verify", "validate", "test", "ensure"],
    &["capture", "record", "snapshot"],
    &["navigate", "visit", "browse", "open", "goto"],
    &["click", "press", "tap", "push"],
    &["type", "enter", "input", "fill"],
    &["choose", "select", "pick"],
    &["join", "merge", "combine"],
    &["connect", "link", "relation", "relationship"],
    &["describe", "detail", "inspect", "info", "information", "metadata"],
    &["analyze", "analysis", "investigate", "examine", "inspect", "debug", "diagnose", "troubleshoot"],
    &["summarize", "summary", "digest"],
    &["calculate", "compute", "sum", "count", "aggregate", "total"],
    &["sort", "order", "rank"],
    &["filter", "restrict", "narrow"],
    &["wait", "delay", "sleep"],
    &["compress", "zip", "gzip", "archive", "pack"],
    &["extract", "scrape", "crawl", "parse", "unzip"],
    &["notify", "alert", "alarm", "warning", "problem", "incident", "notification", "remind", "reminder"],
    &["approve", "accept", "confirm"],
    &["reject", "decline", "deny", "refuse", "dismiss"],
    &["assign", "delegate"],
    &["schedule", "plan", "calendar", "cron"],
    &["subscribe", "follow"],
    &["undo", "revert", "rollback", "restore"],
    &["backup", "dump", "snapshot"],
    &["scale", "resize", "grow"],
    &["lock", "block", "ban"],
    &["allow", "permit", "grant"],
    &["buy", "purchase", "order", "pay"],
    &["estimate", "predict", "forecast"],
    &["repeat", "echo"],
    &["simulate", "emulate", "mock"],
    &["remember", "memorize", "memory", "recall", "note"],
    &["enable", "activate"],
    &["disable", "deactivate", "off"],
    &["restart", "reboot", "reload", "refresh"],
    &["tunnel", "forward", "proxy"],
    &["drain", "evacuate"],
    &["populate", "fill", "seed", "load"],
    &["aggregate", "group"],
    &["close", "resolve", "finish", "complete", "done"],
    &["build", "compile"],
    &["mark", "flag"],
    &["favorite", "star", "bookmark"],
    &["book", "reserve", "reservation"],
    &["mute", "silence"],
    &["ask", "question"],
    &["ping", "alive", "reachable"],
    // Things.
    &["directory", "folder", "dir"],
    &["picture", "image", "photo", "img", "screenshot"],
    &["video", "film", "movie", "screencast", "recording"],
    &["audio", "sound", "speech", "voice"],
    &["issue", "ticket", "bug", "defect"],
    &["task", "todo", "job"],
    &["message", "msg", "chat", "talk", "conversation"],
    &["mail", "email", "inbox"],
    &["person", "people", "user", "member", "colleague", "coworker", "teammate", "employee", "contact"],
    &["team", "group", "channel"],
    &["comment", "remark", "reply", "feedback", "review", "note"],
    &["url", "link", "address"],
    &["site", "website", "web", "internet", "online"],
    &["page", "document", "doc", "article"],
    &["error", "failure", "exception", "problem", "fault", "crash"],
    &["paper", "publication", "article", "literature"],
    &["record", "document", "row", "entry", "item"],
    &["table", "spreadsheet", "sheet"],
    &["field", "column", "attribute", "property", "schema", "structure"],
    &["settings", "configuration", "config", "preference", "option"],
    &["percent", "percentage", "ratio", "share", "proportion"],
    &["command", "cmd", "shell", "terminal"],
    &["status", "state", "progress", "health", "condition"],
    &["size", "space", "capacity", "large", "big"],
    &["speed", "performance", "fast", "slow", "latency"],
    &["history", "log", "past"],
    &["commit", "revision", "changeset"],
    &["version", "release"],
    &["permission", "access", "right", "role"],
    &["secret", "password", "credential", "token", "key"],
    &["login", "authentication", "auth", "signin"],
    &["machine", "host", "node", "server", "instance"],
    &["program", "application", "app"],
    &["code", "source", "script"],
    &["event", "meeting", "appointment"],
    &["customer", "client"],
    &["price", "cost", "fee", "amount"],
    &["invoice", "bill", "receipt"],
    &["place", "location", "position", "point", "spot"],
    &["route", "direction", "path", "way"],
    &["distance", "far"],
    &["country", "region", "area"],
    &["date", "day", "time", "clock"],
    &["hour", "minute", "time"],
    &["visible", "shown", "appear"],
    &["dropdown", "combobox", "select"],
    &["popup", "dialog", "modal"],
    &["keyboard", "key"],
    &["temperature", "weather", "forecast"],
    &["network", "connection"],
    &["cause", "reason"],
    &["disk", "storage", "drive"],
    &["distribution", "spread"],
    &["elevation", "altitude", "height"],
    &["category", "kind", "type", "class"],
    &["hierarchy", "tree"],
    &["text", "string"],
    &["number", "integer"],
    &["label", "tag"],
    &["statistics", "stats", "metrics"],
    &["log", "console", "output"],
    &["window", "viewport"],
    &["phone", "mobile", "device"],
    &["example", "sample", "demo"],
    &["range", "interval", "bin", "bucket"],
    &["latest", "recent", "newest"],
    &["first", "head", "top"],
    &["last", "tail", "bottom"],
    &["rule", "policy"],
    &["limit", "quota", "budget"],
    &["owner", "author", "creator"],
    &["score", "rating", "grade"],
    &["company", "business", "firm"],
    &["shop", "store"],
    &["answer", "response"],
    &["workflow", "pipeline", "ci"],
    &["topic", "subject"],
    &["preview", "thumbnail"],
    &["profile", "account", "bio"],
    &["music", "song"],
    &["language", "locale"],
    // Abbreviations.
    &["repository", "repo"],
    &["database", "db"],
    &["kubernetes", "k8s", "kubectl"],
    &["javascript", "js"],
    &["typescript", "ts"],
    &["environment", "env"],
    &["organization", "organisation", "org"],
    &["identifier", "id"],
    &["variable", "var"],
    &["parameter", "param", "argument", "arg"],
    &["administrator", "admin"],
    &["specification", "spec"],
    &["reference", "ref"],
    &["management", "manage"],
    &["information", "info"],
];

/// What stands for several words.
const ABBREVIATIONS: [(&str, &[&str]); 2] = [("pr", &["pull", "request"]), ("mr", &["merge", "request"])];

static SYNONYMS: LazyLock<HashMap<String, Vec<String>>> = LazyLock::new(|| {
    let mut all: HashMap<String, Vec<String>> = HashMap::new();
    for meaning in MEANINGS {
        let stems: Vec<String> = meaning.iter().map(|word| stem(word)).collect();
        for own in &stems {
            let others = all.entry(own.clone()).or_default();
            for other in stems.iter().filter(|&other| other != own) {
                if !others.contains(other) {
                    others.push(other.clone());
                }
            }
        }
    }
    all
});

/// The stems that mean the same as this one, in the order of the table.
pub(crate) fn synonyms(stem: &str) -> &'static [String] {
    SYNONYMS.get(stem).map_or(&[], Vec::as_slice)
}

/// The words that an abbreviation stands for.
pub(crate) fn spelled_out(stem: &str) -> &'static [&'static str] {
    ABBREVIATIONS.iter().find(|(short, _)| *short == stem).map_or(&[], |(_, words)| words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meaning_leads_from_each_of_its_words_to_all_others() {
        assert_eq!(synonyms("repo"), ["repositori"]);
        assert_eq!(synonyms("folder"), ["directori", "dir"]);
        assert_eq!(
            synonyms("record"),
            ["captur", "snapshot", "video", "film", "movi", "screencast", "document", "row", "entri", "item"]
        );
        assert_eq!(synonyms("fishbone"), <[String; 0]>::default());
        assert_eq!(spelled_out("pr"), ["pull", "request"]);
        assert_eq!(spelled_out("pull"), <[&str; 0]>::default());
    }

    #[test]
    fn every_word_of_the_table_is_one_term_and_no_stop_word() {
        for word in MEANINGS.iter().copied().flatten() {
            assert!(!stem(word).is_empty(), "{word}");
        }
    }
}
