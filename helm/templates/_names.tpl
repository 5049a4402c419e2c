{{/* 40 characters leave room for what Kubernetes and the training's Job add. */}}
{{- define "draem-inspect.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "draem-inspect.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "draem-inspect.labels" -}}
{{ include "draem-inspect.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Takes an `image` of the values. */}}
{{- define "draem-inspect.image" -}}
{{ printf "%s%s" .repository (.digest | empty | ternary (printf ":%s" .tag) (printf "@%s" .digest)) | quote }}
{{- end }}

{{- define "draem-inspect.modelsClaim" -}}
{{ .Values.models.claim.existing | default (printf "%s-models" (include "draem-inspect.fullname" .)) }}
{{- end }}

{{- define "draem-inspect.enginesClaim" -}}
{{ .Values.engines.claim.existing | default (printf "%s-engines" (include "draem-inspect.fullname" .)) }}
{{- end }}

{{- define "draem-inspect.runsClaim" -}}
{{ .Values.training.runs.claim.existing | default (printf "%s-runs" (include "draem-inspect.fullname" .)) }}
{{- end }}

{{- define "draem-inspect.apiKeysSecret" -}}
{{- if .Values.apiKeys.existingSecret }}{{ .Values.apiKeys.existingSecret }}
{{- else if .Values.apiKeys.lines }}{{ include "draem-inspect.fullname" . }}-api-keys
{{- end }}
{{- end }}

{{/* A file that Helm took along with the chart. It is a symbolic link in the repository: see that it was followed. */}}
{{- define "draem-inspect.file" -}}
{{- $text := .root.Files.Get .name -}}
{{- if not (contains "\n" $text) -}}
{{- fail (printf "%s is not in this chart: take it from a checkout that keeps symbolic links" .name) -}}
{{- end -}}
{{ $text }}
{{- end }}
