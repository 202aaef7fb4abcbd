{{- define "operator.fullname" -}}
{{- default (printf "%s-operator" .Release.Name) .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "operator.account" -}}
{{- default (include "operator.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "operator.selector" -}}
app.kubernetes.io/name: finetune-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/part-of: finetune
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- /* An image by its digest, otherwise by its tag or the version of the chart. Takes {image, version}. */ -}}
{{- define "operator.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .version .image.tag }}
{{- end -}}
{{- end -}}

{{- /* The pods that may read a trainer's /progress and /metrics, as the operator's settings name them. */ -}}
{{- define "operator.scrapers" -}}
- namespaceLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
  podLabels:
    {{- include "operator.selector" . | nindent 4 }}
- namespaceLabels: {{ toJson .Values.monitoring.prometheus.namespaceLabels }}
  podLabels: {{ toJson .Values.monitoring.prometheus.podLabels }}
{{- end -}}

{{- define "operator.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $_ := set $settings "trainerImage" (include "operator.image" (dict "image" .Values.trainerImage "version" .Chart.AppVersion)) -}}
{{- $_ := set $settings "unslothImage" (include "operator.image" (dict "image" .Values.unslothImage "version" .Chart.AppVersion)) -}}
{{- with $settings.preflight -}}{{- if not .queueName -}}{{- $_ := unset . "queueName" -}}{{- end -}}{{- end -}}
{{- if not $settings.modelCacheClaim -}}{{- $_ := unset $settings "modelCacheClaim" -}}{{- end -}}
{{- if $settings.trainerNetwork -}}
{{- $scrapers := concat (include "operator.scrapers" . | fromYamlArray) ($settings.trainerNetwork.scrapers | default list) -}}
{{- $_ := set $settings.trainerNetwork "scrapers" $scrapers -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- /* What the operator requests of the apiserver in every namespace that it serves
(operator/src/finetune_operator/cluster/apiserver/client.py, cluster/watch/kinds.py). Nothing here reads a Secret. */ -}}
{{- define "operator.rules" -}}
- apiGroups: [finetune.dev]
  resources: [finetuneexperiments]
  verbs: [list, watch]
# Jobs are created, changed and deleted for experiments, and only those that an experiment owns.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status, finetuneexperiments/status]
  verbs: [update]
# For owner references with blockOwnerDeletion, if the cluster checks them (OwnerReferencesPermissionEnforcement).
- apiGroups: [finetune.dev]
  resources: [finetunejobs/finalizers, finetuneexperiments/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
# Read only before a check that mounts a claim: whether the claim has a volume.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
# Read only if a Job has no pod or a pod does not start: the Events say why.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end -}}
