{{/* A Role and its binding to the service account of a part; without a namespace, a ClusterRole:
     (list . PART NAMESPACE NAME RULES). */}}
{{- define "portcullis.grant" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $namespace := index . 2 }}
{{- $kind := ternary "Role" "ClusterRole" (ne $namespace "") }}
{{- $name := index . 3 }}
{{- if not $namespace }}
{{- $name = printf "%s-%s" (include "portcullis.clusterName" $root) $name }}
{{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "portcullis.labels" (list $root $part) | nindent 4 }}
rules:
  {{- index . 4 | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "portcullis.labels" (list $root $part) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "portcullis.serviceAccount" (list $root $part) }}
    namespace: {{ $root.Release.Namespace }}
{{ end -}}
