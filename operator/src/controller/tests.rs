use serde_json::json;

use super::*;

/// A controller whose API server does not answer.
fn controller() -> Controller {
    let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
    let (client, metrics) = (Client::try_from(config).unwrap(), OperatorMetrics::new());
    let given = |text: &str| Some(text.to_owned());
    let options =
        crate::OperatorOptions { configmaps: given("a"), gateways: given("127.0.0.1:9"), ..Default::default() };
    let (config, complete) = (options.check("host").unwrap(), portcullis_runtime::Readiness::default().latch("a"));
    let (events, _notes) = crate::events::channel(metrics.clone());
    Controller::new(&client, &config, "n", events, metrics, complete)
}

#[tokio::test]
async fn a_question_is_not_answered_by_the_news_of_its_own_writing() {
    let mut controller = controller();
    let object = |version: &str, contender: Option<&str>| {
        let status = json!({"servedBy": {"installation": "n/other"}, "contender": contender});
        let object = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"namespace": "n", "name": "a", "uid": "u", "resourceVersion": version},
            "spec": {"url": "http://a/"}, "status": status,
        });
        ClusterNews::Server(0, Event::Apply(serde_json::from_value(object).unwrap()))
    };
    controller.handle_news(object("9", None));
    let (now, me) = (Instant::now(), controller.ownership.me().to_owned());
    controller.check_other_installations(now);
    let of = ObjectKey::server(&ServerKey::new("n", "a"));
    assert!(controller.statuses.is_busy(&of), "it asks");
    // The news of the write comes before its answer.
    controller.handle_news(object("10", Some(&me)));
    let asked =
        McpServerStatus { contender: Some(me), ..controller.inventory.get(&of.key).unwrap().object.status.clone() };
    let (status, outcome) = (NewStatus::Server(Box::new(asked)), WriteResult::Done(Some(10)));
    controller.finish_status_write(WriteOutcome { key: of.clone(), uid: "u".into(), status, outcome });
    let due = controller.ownership.due(now + Duration::from_secs(300));
    assert_eq!(due.gone, [("n/other".to_owned(), vec![of.key])]);
}

#[tokio::test]
async fn a_server_that_was_made_anew_has_not_the_status_of_the_one_before() {
    let mut controller = controller();
    let object = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {"namespace": "n", "name": "a", "uid": "new", "resourceVersion": "9"},
        "spec": {"url": "http://a/"},
    }));
    controller.handle_news(ClusterNews::Server(0, Event::Apply(object.unwrap())));
    let key = ServerKey::new("n", "a");
    let written = McpServerStatus { observed_generation: Some(1), ..McpServerStatus::default() };
    for (uid, expected) in [("old", McpServerStatus::default()), ("new", written.clone())] {
        let (key, status) = (ObjectKey::server(&key), NewStatus::Server(Box::new(written.clone())));
        controller.finish_status_write(WriteOutcome {
            key,
            uid: uid.into(),
            status,
            outcome: WriteResult::Done(Some(10)),
        });
        assert_eq!(controller.inventory.get(&ServerKey::new("n", "a")).unwrap().object.status, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn ready_replicas_share_limits_and_until_they_are_known_those_of_the_slots() {
    let mut controller = controller();
    let rule = json!({
        "name": "r", "from": [{"authenticated": true}], "allow": [{"tools": ["*"]}], "limit": {"calls": 1, "per": "Day"},
    });
    let policy = json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"rules": [rule]}});
    let policy = portcullis_crds::ReadPolicy::of(&policy);
    controller.inventory.put_policy(&ServerKey::new("n", "p"), Some(policy), Instant::now());
    let server = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {"namespace": "n", "name": "a", "uid": "u"}, "spec": {"url": "http://a/"},
    });
    controller.handle_news(ClusterNews::Server(0, Event::Apply(serde_json::from_value(server).unwrap())));
    let told = |controller: &mut Controller| {
        controller.write_due();
        controller.inventory.slot(0).packed.unpack().unwrap().replicas
    };
    assert_eq!(told(&mut controller), Some(1));
    let text = |replicas: u32| json!({"data": {"servers.json": slot_text(replicas)}});
    let slot = |replicas: u32| serde_json::from_value(text(replicas)).unwrap();
    controller.handle_news(ClusterNews::Slot(0, Event::InitApply(slot(4))));
    assert_eq!(told(&mut controller), Some(4));
    let pods = |ready: &[bool]| {
        let pod = |(n, ready): (usize, &bool)| json!({"addresses": [format!("10.0.0.{}", n + 1)], "conditions": {"ready": ready}});
        let slice = json!({
            "metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"name": "admin", "port": 9090}],
            "endpoints": ready.iter().enumerate().map(pod).collect::<Vec<_>>(),
        });
        ClusterNews::Endpoints(Event::Apply(serde_json::from_value(slice).unwrap()))
    };
    controller.handle_news(pods(&[true, true, false]));
    // What the slots say no longer counts.
    controller.handle_news(ClusterNews::Slot(0, Event::Apply(slot(9))));
    assert_eq!(told(&mut controller), Some(4), "one may have left just now");
    let falls_at = controller.next_wake(Instant::now()).unwrap();
    tokio::time::advance(falls_at - Instant::now()).await;
    assert_eq!(told(&mut controller), Some(2));
    controller.handle_news(pods(&[true; 3]));
    assert_eq!(told(&mut controller), Some(3));
    controller.handle_news(pods(&[false; 3]));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(told(&mut controller), Some(3), "nobody is served");
}

/// A slot that says how many replicas share the limits of its one policy.
fn slot_text(replicas: u32) -> String {
    format!(r#"{{"version":2,"replicas":{replicas},"servers":[],"policies":[]}}"#)
}
