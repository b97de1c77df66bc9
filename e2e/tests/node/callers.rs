//! Pods that call with their own service-account tokens.

use portcullis_e2e::cluster::{self, LIMIT, Tier};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;

use crate::release::NodeRelease;

/// A pod with two tokens: one made for the gateway, and the one that every pod has.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: caller}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: caller
      image: docker.io/curlimages/curl:8.17.0
      command: [sleep, infinity]
      volumeMounts: [{name: portcullis, mountPath: /var/run/portcullis}]
  volumes:
    - name: portcullis
      projected:
        sources: [{serviceAccountToken: {path: token, audience: portcullis, expirationSeconds: 600}}]
"#;

#[test]
fn only_a_token_that_was_made_for_the_gateway_opens_it() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        release.space.apply(POD);
        release.space.kubectl(&["wait", "--for=condition=Ready", "pod/caller", "--timeout=60s"]).good();
        let status = |header: &str| {
            let url = "http://portcullis.portcullis.svc.cluster.local/tools/list";
            let command = format!("curl -sS --max-time 10 -o /dev/null -w '%{{http_code}}' {header} {url}");
            release.space.kubectl(&["exec", "caller", "--", "sh", "-c", &command]).good()
        };
        let bearer = |file: &str| format!(r#"-H "Authorization: Bearer $(cat {file})""#);
        assert_eq!(status(&bearer("/var/run/portcullis/token")), "200");
        assert_eq!(status(&bearer("/var/run/secrets/kubernetes.io/serviceaccount/token")), "401");
        assert_eq!(status(""), "401");
        assert_eq!(status("-H 'Authorization: Bearer nonsense'"), "401");
        let subject = format!("system:serviceaccount:{}:default", release.space.name);
        wait_for("the subject in the log of a gateway", LIMIT, async || {
            let selector = "app.kubernetes.io/component=gateway";
            let log = release.kubectl(&["logs", "-l", selector, "--tail=-1"]).good();
            log.contains(&subject).then_some(())
        })
        .await;
    });
}
