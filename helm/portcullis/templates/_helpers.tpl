{{/* What every name begins with. 40 characters leave room for what follows. */}}
{{- define "portcullis.port" -}}
{{ if and .Values.tls.secretName (eq (int .Values.service.port) 80) }}443{{ else }}{{ .Values.service.port }}{{ end }}
{{- end }}

{{- /* The address of the API within the cluster. */ -}}
{{- define "portcullis.url" -}}
{{- $usual := ternary "443" "80" (ne .Values.tls.secretName "") -}}
{{- $port := include "portcullis.port" . -}}
{{ ternary "https" "http" (ne .Values.tls.secretName "") }}://{{ include "portcullis.fullname" . }}.{{ .Release.Namespace }}.svc{{ ternary "" (printf ":%s" $port) (eq $port $usual) }}
{{- end }}

{{- define "portcullis.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Cluster-wide objects carry the namespace too, for there may be a release of the same name in another. */}}
{{- define "portcullis.clusterName" -}}
{{ .Release.Namespace }}:{{ include "portcullis.fullname" . }}
{{- end -}}

{{/* Labels that select the pods of a part: (list . "gateway"). */}}
{{- define "portcullis.selector" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* Labels of every object: (list . "gateway"). */}}
{{- define "portcullis.labels" -}}
{{- $root := first . -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: portcullis
{{ include "portcullis.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Names of the slots, as a YAML list. Their number is part of the name, so that another number is another set. */}}
{{- define "portcullis.slots" -}}
{{- $count := int .Values.snapshot.slots -}}
{{- range $index := until $count }}
- {{ include "portcullis.fullname" $ }}-servers-{{ $count }}-{{ $index }}
{{- end }}
{{- end -}}

{{/* What a slot carries that somebody has deleted and the operator makes anew, so that it stays a part of the release. */}}
{{- define "portcullis.slotMetadata" -}}
{{- $release := dict "meta.helm.sh/release-name" .Release.Name "meta.helm.sh/release-namespace" .Release.Namespace -}}
{{- dict "labels" (include "portcullis.labels" (list . "servers") | fromYaml) "annotations" $release | toJson -}}
{{- end -}}

{{- define "portcullis.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{ .Values.image.repository }}:{{ $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "portcullis.secretName" -}}
{{- if .Values.auth.sharedSecret.create -}}
{{ include "portcullis.fullname" . }}-jwt
{{- else -}}
{{ .Values.auth.sharedSecret.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "portcullis.sessionsSecret" -}}
{{ default (printf "%s-sessions" (include "portcullis.fullname" .)) .Values.sessions.existingSecret }}
{{- end -}}

{{/* The issuer of assertions. */}}
{{- define "portcullis.issuer" -}}
{{ default (default (include "portcullis.url" . | trim) .Values.publicUrl) .Values.identity.issuer }}
{{- end -}}

{{- define "portcullis.assertionKeysSecret" -}}
{{ default (printf "%s-assertion-keys" (include "portcullis.fullname" .)) .Values.identity.assertionKeys.existingSecret }}
{{- end -}}

{{/* Names by which /mcp may be asked: with the given ones, those that the chart itself makes. */}}
{{- define "portcullis.allowedHosts" -}}
{{- $full := include "portcullis.fullname" . -}}
{{- $hosts := concat .Values.allowedHosts (list $full (printf "%s.%s" $full .Release.Namespace)) -}}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts .Values.ingress.hosts }}{{ end -}}
{{- if .Values.httpRoute.enabled }}{{ $hosts = concat $hosts .Values.httpRoute.hostnames }}{{ end -}}
{{ join "," (uniq $hosts) }}
{{- end -}}

{{/* Labels of a pod: (list . "gateway" .Values.gateway). No versions, so that only a change of the pod replaces it. */}}
{{- define "portcullis.podLabels" -}}
{{ include "portcullis.selector" (list (index . 0) (index . 1)) }}
{{- with merge dict (index . 2).podLabels (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Settings of a pod that both parts share: (list . "gateway" .Values.gateway). */}}
{{- define "portcullis.podSpec" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $values := index . 2 -}}
serviceAccountName: {{ include "portcullis.serviceAccount" (list $root $part) }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "portcullis.podSecurity" (list $root $values) }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with $values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range default (include "portcullis.spread" . | fromYamlArray) $values.topologySpreadConstraints }}
  - {{ toYaml . | nindent 4 | trim }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "portcullis.selector" (list $root $part) | nindent 8 }}
    {{- end }}
  {{- end }}
{{- with $values.extraInitContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "portcullis.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
{{- end -}}

{{/* Security context of pods: (list . .Values.gateway). OpenShift refuses users and groups that it did not choose. */}}
{{- define "portcullis.podSecurity" -}}
{{- $root := first . }}
{{- $context := (last .).podSecurityContext }}
{{- if include "portcullis.openshift" $root }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}
{{- end }}
{{- with $context }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Security context of containers: (list . .Values.gateway). */}}
{{- define "portcullis.containerSecurity" -}}
{{- $context := (last .).securityContext }}
{{- if include "portcullis.openshift" (first .) }}
{{- $context = omit $context "runAsUser" "runAsGroup" }}
{{- end }}
{{- with $context }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Not empty on OpenShift. */}}
{{- define "portcullis.openshift" -}}
{{- $given := toString .Values.openshift -}}
{{- if or (eq $given "true") (and (eq $given "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}
true
{{- end -}}
{{- end -}}

{{/* Mode of mounted Secrets and tokens: (list . .Values.gateway). Without an fsGroup of ours, the group of the files is
     root's and the process is in another one; no other user has processes in the pod. */}}
{{- define "portcullis.fileMode" -}}
{{- if and (last .).podSecurityContext.fsGroup (not (include "portcullis.openshift" (first .))) -}}
288 # 0440
{{- else -}}
292 # 0444
{{- end -}}
{{- end -}}

{{/* Name of the service account of a part: (list . "gateway"). */}}
{{- define "portcullis.serviceAccount" -}}
{{- $root := first . -}}
{{- $part := last . -}}
{{ default (printf "%s-%s" (include "portcullis.fullname" $root) $part) (get $root.Values.serviceAccount $part).name }}
{{- end -}}

{{/* How Prometheus scrapes the admin ports: .Values.monitoring.podMonitor or the like. */}}
{{- define "portcullis.scrape" -}}
port: admin
interval: {{ .interval }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Variables of a container: (list YAML MORE). One of MORE replaces one of the same name, for two would be refused. */}}
{{- define "portcullis.env" -}}
{{- $more := dict }}
{{- range last . }}
{{- $_ := set $more .name . }}
{{- end }}
{{- $variables := list }}
{{- range first . | fromYamlArray }}
{{- $variables = append $variables (default . (get $more .name)) }}
{{- $more = omit $more .name }}
{{- end }}
{{- range last . }}
{{- if hasKey $more .name }}
{{- $variables = append $variables (get $more .name) }}
{{- $more = omit $more .name }}
{{- end }}
{{- end }}
{{- toYaml $variables }}
{{- end -}}

{{/* Only the process itself counts for life; a pod that waits for its configuration is not ready, but alive. */}}
{{- define "portcullis.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{/* What the client of the API server reads, with a token that lives for an hour and is renewed by the kubelet:
     (list . .Values.gateway). */}}
{{- define "portcullis.apiAccess" -}}
- name: api-access
  projected:
    defaultMode: {{ include "portcullis.fileMode" . }}
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]
{{- end -}}

{{- define "portcullis.apiAccessMount" -}}
- name: api-access
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end -}}

{{/* Those of some namespaces that are there, as a JSON list: (list . NAMES). All of them where Helm cannot look. */}}
{{- define "portcullis.there" -}}
{{- $root := first . -}}
{{- $names := last . -}}
{{- $found := list -}}
{{- if and $names $root.Values.rbac.create $root.Values.rbac.lookup -}}
{{- range without $names "*" -}}
{{- if lookup "v1" "Namespace" "" . -}}{{- $found = append $found . -}}{{- end -}}
{{- end -}}
{{- if not (or $found (lookup "v1" "Namespace" "" $root.Release.Namespace)) -}}{{- $found = $names -}}{{- end -}}
{{- else -}}
{{- $found = $names -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Those that are not. */}}
{{- define "portcullis.missing" -}}
{{- $names := without (concat .Values.watch.namespaces .Values.credentials.namespaces | uniq) "*" -}}
{{- $there := include "portcullis.there" (list . $names) | fromJsonArray -}}
{{- $missing := list -}}
{{- range $names -}}{{- if not (has . $there) -}}{{- $missing = append $missing . -}}{{- end -}}{{- end -}}
{{- toJson $missing -}}
{{- end -}}

{{/* Other releases whose operators watch all namespaces, when this one does too, as a JSON list of NAMESPACE/NAME. */}}
{{- define "portcullis.others" -}}
{{- $others := list -}}
{{- if and .Values.rbac.create .Values.rbac.lookup (not .Values.watch.namespaces) -}}
{{- $own := printf "%s-operator" (include "portcullis.clusterName" .) -}}
{{- range (lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "").items -}}
{{- $labels := default dict .metadata.labels -}}
{{- $ours := and (eq (get $labels "app.kubernetes.io/part-of") "portcullis") (eq (get $labels "app.kubernetes.io/component") "operator") -}}
{{- if and $ours (ne .metadata.name $own) -}}
{{- $others = append $others (printf "%s/%s" (first (splitList ":" .metadata.name)) (get $labels "app.kubernetes.io/instance")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $others -}}
{{- end -}}
