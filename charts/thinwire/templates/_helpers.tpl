{{/* One controller a namespace: its Service's name is in the certificates that it makes. */}}
{{- define "thinwire.name" -}}thinwire-controller{{- end }}

{{/* Name of what is not in a namespace. */}}
{{- define "thinwire.clusterName" -}}thinwire-controller-{{ .Release.Namespace }}{{- end }}

{{- define "thinwire.selector" -}}
app.kubernetes.io/name: thinwire-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "thinwire.labels" -}}
{{ include "thinwire.selector" . }}
app.kubernetes.io/part-of: thinwire
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "thinwire.controllerImage" -}}
{{ .Values.controller.image.repository }}:{{ .Values.controller.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "thinwire.runtimeImage" -}}
{{ .Values.runtime.image.repository }}:{{ .Values.runtime.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What the controller does to jobs and what belongs to them: each rule is one of its calls, nothing more. */}}
{{- define "thinwire.jobRules" -}}
- apiGroups: [thinwire.dev]
  resources: [diffusionjobs]
  verbs: [get, list, watch, delete]        # deletes what has outlived its ttlSecondsAfterFinished
- apiGroups: [thinwire.dev]
  resources: [diffusionjobs/status]
  verbs: [patch]
- apiGroups: [thinwire.dev]
  resources: [diffusionjobs/finalizers]    # owner references that block deletion, where the API server minds
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]        # a gang's headless Service, its RunSpec, and prompts in ConfigMaps
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues]
  verbs: [get]
- apiGroups: [events.k8s.io]               # the story of a job
  resources: [events]
  verbs: [create]
- apiGroups: [""]                          # what a Job's pods were refused for
  resources: [events]
  verbs: [list]
{{- end }}
