-- How Argo CD sees a FineTuneJob or a FineTuneExperiment: from its generation, phase and conditions. argocd-cm.yaml carries this file.
local health = {status = "Progressing", message = "the operator has not looked at it yet"}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration == nil then
  return health
end
if status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not looked at the latest change yet"
  return health
end

local is = {}
local words = {}
for _, condition in ipairs(status.conditions) do
  is[condition.type] = condition.status == "True"
  words[condition.type] = condition.reason .. ": " .. condition.message
end

health.message = words["Progressing"] or status.phase
if is["Stalled"] or is["Failed"] then
  health.status = "Degraded"
elseif is["Succeeded"] then
  health.status = "Healthy"
elseif status.phase == "Suspended" then
  health.status = "Suspended"
end
return health
