{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* Agents and control find each other by these names. */ -}}
{{- define "mesh-agent.check" -}}
{{- if ne .Release.Namespace "mesh-system" }}
{{- fail (printf "install into the namespace mesh-system, not %s: helm install mesh-agent --namespace mesh-system --create-namespace" .Release.Namespace) }}
{{- end }}
{{- end }}

{{- /* The flags that agents and control must agree in; at their defaults they are left out. */ -}}
{{- define "mesh-agent.domains" -}}
{{- if ne .Values.trustDomain "cluster.local" }}
- --trust-domain={{ .Values.trustDomain }}
{{- end }}
{{- if ne .Values.clusterDomain "cluster.local" }}
- --cluster-domain={{ .Values.clusterDomain }}
{{- end }}
{{- end }}
